"""The looks of `report.html`: light and dark, desk, phone and A4."""

CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --page: #f4f5f7; --card: #fff; --line: #d5d9de;
  --accent: #0072b2; --warn: #fff4d6; --warn-line: #e69f00; --warn-ink: #573d00; --estimate: #eef1f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #a0a8b2; --page: #14171b; --card: #1e2228;
  --line: #3a4048; --accent: #56b4e9; --warn: #3a2f10; --warn-line: #e69f00; --warn-ink: #ffe2a0; --estimate: #272c33; }
  .curve img { filter: invert(0.88) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 68rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.3rem 0 0.8rem; }
h2 { font-size: 1.25rem; margin: 0 0 0.7rem; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 0 0 0.6rem; }
a { color: var(--accent); }
code { font-size: 0.9em; }
.quiet { color: var(--quiet); font-size: 0.9rem; }
.banner { background: #b3261e; color: #fff; font-weight: 600; padding: 0.6rem 0.9rem; border-radius: 0.4rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 1.1rem;
  margin: 1.1rem 0; }
article { border-top: 1px solid var(--line); margin-top: 1.1rem; padding-top: 1rem; }
.columns { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.1rem; align-items: start;
  margin-bottom: 0.8rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 0.3rem; }
.curve img { background: #fff; }
figcaption { font-size: 0.85rem; color: var(--quiet); margin-top: 0.3rem; }
figcaption p { margin: 0; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; margin: 0; padding: 0; }
.chip { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; border: 1px solid var(--quiet);
  border-radius: 2px; vertical-align: -0.05em; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.8rem 0.35rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 500; font-size: 0.85rem; }
tbody th { font-weight: 500; }
.identity { font-size: 0.9rem; }
.numbers { margin-top: 0.6rem; } .numbers td { white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.3rem 0.9rem; margin: 0 0 0.8rem; }
dt { color: var(--quiet); font-size: 0.9rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.warning { background: var(--warn); color: var(--warn-ink); border-left: 4px solid var(--warn-line);
  border-radius: 0.3rem; padding: 0.6rem 0.9rem; margin: 0 0 0.8rem; overflow-wrap: anywhere; }
.warning ul { margin: 0.2rem 0 0; padding-left: 1.1rem; }
.estimate { background: var(--estimate); border-radius: 0.3rem; padding: 0.5rem 0.9rem; margin: 0; font-size: 0.95rem; }
li { overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: 0.7rem; } section { padding: 0.8rem; }
  .columns { grid-template-columns: minmax(0, 1fr); } dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: 0.5rem; } .stack thead { display: none; }
  .stack tr { display: block; padding: 0.4rem 0; border-bottom: 1px solid var(--line); }
  .stack th, .stack td { display: block; padding: 0; border: 0; } .stack :empty { display: none; }
  .stack td::before { content: attr(data-label) ": "; color: var(--quiet); font-size: 0.9rem; } }
@page { size: A4; margin: 14mm; }
@media print { :root { color-scheme: light; --ink: #000; --quiet: #444; --page: #fff; --card: #fff; --line: #bbb;
  --warn: #fff4d6; --warn-ink: #000; --estimate: #f0f0f0; --accent: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; } section { border: 0; padding: 0; }
  .input { break-before: page; } article, figure, tr, .warning { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .scroll { overflow: visible; } th, td { font-size: 8.5pt; overflow-wrap: break-word; }
  figure img { width: auto; max-width: 100%; max-height: 74mm; } dl { gap: 0 0.9rem; }
  .curve img { filter: none; } .banner { border: 2px solid #b3261e; }
  .banner, .warning, .estimate { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
