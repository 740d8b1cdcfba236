"""What a board says of itself survives the way through JSON."""

from __future__ import annotations

import json

from iseg_tvm.board.identity import BoardIdentity, read_identity


def test_through_json() -> None:
    identity = read_identity()
    sent = json.dumps(identity.to_dict())
    assert BoardIdentity.from_dict(json.loads(sent)) == identity


def test_of_an_older_version() -> None:
    """Results written before a field existed can still be compared."""
    identity = read_identity()
    values = json.loads(json.dumps(identity.to_dict()))
    del values["cpu"]["refused"]
    assert BoardIdentity.from_dict(values).cpu.features == identity.cpu.features
