#!/usr/bin/env bash
# Import everything and run the quick tests on every supported Python that is installed here.
#   scripts/pythons.sh [VERSION...]       default: 3.10 3.11 3.12 3.13
# Each has an environment of its own in out/python-VERSION, kept from run to run. A version that is
# not installed is named and counted; the exit status is 1 if a test failed or none could run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD"
quick=(tests/cli/test_main.py tests/cli/test_info.py tests/cli/test_flags.py tests/cli/test_compile.py
       tests/unit/test_files.py tests/unit/test_targets.py tests/unit/test_bundle.py
       tests/unit/test_artifact.py tests/unit/test_fixed_point.py tests/unit/test_runtime.py
       tests/integration/test_compiled_model.py)
passed=() failed=() missing=()
for version in "${@:-3.10 3.11 3.12 3.13}"; do
  for v in $version; do
    python=$(command -v "python$v") && "$python" -c '' 2>/dev/null || {
      python=$(compgen -G "$HOME/.pyenv/versions/$v.*/bin/python$v" | tail -n 1); }
    if [ -z "$python" ]; then missing+=("$v"); continue; fi
    venv=out/python-$v
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    if "$venv/bin/python" -m pip install -q --disable-pip-version-check '.[host,test]' \
        && "$venv/bin/python" -m pip uninstall -q -y iseg-tvm \
        && "$venv/bin/python" -m pip install -q --no-deps -e . \
        && "$venv/bin/python" -m pytest -p no:cacheprovider "${quick[@]}"; then
      passed+=("$v")
    else
      failed+=("$v")
    fi
  done
done
echo "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}; not installed here: ${missing[*]:-none}"
[ ${#failed[@]} -eq 0 ] && [ ${#passed[@]} -gt 0 ]
