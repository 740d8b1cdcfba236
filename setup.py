"""Lists the packages; everything else is in pyproject.toml.

``targets/`` and ``tuning_logs/`` are files a user edits, so they live at the top of the repository;
an installed wheel carries them inside ``iseg_tvm``. Pure TOML can only map directories to packages
that it also lists one by one.
"""

from pathlib import Path

from setuptools import find_packages, setup

package_dir = {"iseg_tvm.installed_targets": "targets"}
package_data = {"iseg_tvm.installed_targets": ["*.toml"], "iseg_tvm": ["data/*"]}
if Path("tuning_logs").is_dir():
    package_dir["iseg_tvm.installed_tuning_logs"] = "tuning_logs"
    package_data["iseg_tvm.installed_tuning_logs"] = ["*/*/*.json"]

setup(
    packages=[*find_packages(include=["iseg_tvm*", "relay_ops*"]), *package_dir],
    package_dir=package_dir,
    package_data=package_data,
)
