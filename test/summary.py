"""Count the results of a test run: `python test/summary.py out/colcon/build/sparse4d_ros/pytest.xml`.

Ends with `N passed, N failed, N skipped` and fails where a test failed or none ran.
"""

from __future__ import annotations

import pathlib
import sys
import xml.etree.ElementTree


def count(results: pathlib.Path) -> tuple[int, int, int]:
    """Passed, failed (with errors) and skipped tests of a JUnit file."""
    suites = xml.etree.ElementTree.parse(results).getroot().iter("testsuite")
    tests = failed = skipped = 0
    for suite in suites:
        tests += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return tests - failed - skipped, failed, skipped


def main() -> None:
    results = pathlib.Path(sys.argv[1])
    if not results.is_file():
        print(f"No results in {results}: the tests did not start, or their process ended early.")
        sys.exit("0 passed, 1 failed, 0 skipped")
    passed, failed, skipped = count(results)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
