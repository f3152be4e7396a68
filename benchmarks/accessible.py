"""Check a report for accessibility by axe-core in headless Chromium, light and dark.

    npm pack axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz package/axe.min.js
    python benchmarks/accessible.py report.html --axe package/axe.min.js

The page's content security policy would keep axe out, so a copy without it is checked. Prints each
violation with its elements, and what axe could not decide; ends with 1 if there is a violation.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

POLICY = re.compile(r"<meta[^>]+Content-Security-Policy[^>]*>", re.I)
FOUND = re.compile(r'<script type="application/json" id="axe-found">(.*?)</script>', re.S)
RUN = """
<script>
addEventListener("load", () => setTimeout(async () => {
  const found = await axe.run(document, {resultTypes: ["violations", "incomplete"]});
  const short = list => list.map(rule => ({id: rule.id, impact: rule.impact, help: rule.help,
    nodes: rule.nodes.map(node => node.target.join(" "))}));
  const place = document.createElement("script");
  place.type = "application/json";
  place.id = "axe-found";
  place.textContent = JSON.stringify({violations: short(found.violations),
    incomplete: short(found.incomplete), passes: found.passes.length,
    scheme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"})
    .replaceAll("<", "\\\\u003c");
  document.body.append(place);
}, 500));
</script>
"""
SCHEMES = {"light": 1, "dark": 0}
"""Chromium's `preferredColorScheme`."""
MAX_NODES = 5


def checked(report: Path, axe: Path, chromium: str, scheme: str) -> dict[str, Any]:
    """Return what axe finds on a page: violations, what it cannot decide, rules that pass."""
    page = POLICY.sub("", report.read_text("utf-8"))
    added = f"<script>{axe.read_text('utf-8')}</script>{RUN}"
    head, end, rest = page.rpartition("</body>")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(f"{head}{added}{end}{rest}", "utf-8")
        words = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        words += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000"]
        words += [f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", copy.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    found = FOUND.search(done.stdout)
    if found is None:
        sys.exit(f"{report}: axe did not end\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    if result["scheme"] != scheme:
        sys.exit(f"{chromium} showed the page in {result['scheme']} colours, not in {scheme}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of axe-core")
    parser.add_argument("--chromium", default="chromium")
    given = parser.parse_args()
    num_violations = 0
    for scheme in SCHEMES:
        found = checked(given.report, given.axe, given.chromium, scheme)
        num_violations += len(found["violations"])
        rules = f"{len(found['violations'])} violations, {len(found['incomplete'])} undecided"
        print(f"{scheme}: {rules}, {found['passes']} rules pass")
        for what in ("violations", "incomplete"):
            for rule in found[what]:
                shown = ", ".join(rule["nodes"][:MAX_NODES])
                print(f"  {what}: {rule['id']} ({rule['impact']}): {rule['help']}")
                print(f"    {len(rule['nodes'])} elements: {shown}")
    sys.exit(1 if num_violations else 0)


if __name__ == "__main__":
    main()
