"""The style sheet of the report: system fonts, one accent colour, light and dark by the reader's setting."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1c1d21; --quiet: #6a6c75; --rule: #e3e1db; --track: #eceae4;
  --accent: #3b5bdb; --good: #2b8a3e; --near: #b86e00; --bad: #c92a2a;
  --line0: #3b5bdb; --line1: #d9480f; --line2: #2b8a3e; --line3: #9c36b5;
  --good-wash: #e6f4e8; --near-wash: #fbf0dc; --bad-wash: #fbe9e7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141519; --card: #1d1f25; --ink: #e9e9ec; --quiet: #9a9ca6; --rule: #2f323a; --track: #2a2d35;
    --accent: #8da2fb; --good: #69c97b; --near: #e9b44c; --bad: #f28b82;
    --line0: #8da2fb; --line1: #ff9f6b; --line2: #69c97b; --line3: #d59bea;
    --good-wash: #1c3324; --near-wash: #38301b; --bad-wash: #3b2323;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 1200px; margin: 0 auto; padding: 40px 28px 72px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -.02em; margin: 0 0 8px; font-weight: 700; }
h2 { font-size: 22px; letter-spacing: -.01em; margin: 56px 0 4px; font-weight: 650; }
h3 { font-size: 16px; margin: 24px 0 10px; font-weight: 650; }
p { margin: 0 0 16px; max-width: 78ch; }
.quiet, .lead { color: var(--quiet); }
.lead { font-size: 17px; }
.good { color: var(--good); } .near { color: var(--near); } .bad { color: var(--bad); }
.grid { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(4, 1fr); margin-top: 28px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 16px 20px 15px; }
.tile .name { font-size: 14px; color: var(--quiet); }
.tile .value { font-size: 38px; line-height: 1.25; font-weight: 700; letter-spacing: -.02em; }
.tile .value small { font-size: 17px; font-weight: 600; margin-left: 2px; }
.tile .against { font-size: 13px; color: var(--quiet); margin-top: 7px; }
.meter { position: relative; height: 6px; border-radius: 3px; background: var(--track); }
.meter i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--accent); }
.meter b { position: absolute; top: -3px; bottom: -3px; width: 2px; margin-left: -1px; background: var(--ink); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.chart { margin: 0; padding: 14px 14px 8px; display: flex; flex-direction: column;
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.chart figcaption { font-size: 14px; font-weight: 650; margin-bottom: 6px; }
.chart svg { display: block; width: 100%; height: auto; margin-top: auto; }
.chart text { font-size: 11px; fill: var(--quiet); }
.chart .axis { stroke: var(--rule); stroke-width: 1; }
.chart polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.key { display: inline-block; font-size: 12.5px; font-weight: 400; color: var(--quiet); margin-right: 14px; }
.key::before { content: ""; display: inline-block; width: 10px; height: 3px; border-radius: 2px; margin-right: 5px;
  vertical-align: middle; background: var(--c); }
.key b { color: var(--ink); font-weight: 600; }
.line0 { --c: var(--line0); } .line1 { --c: var(--line1); } .line2 { --c: var(--line2); } .line3 { --c: var(--line3); }
polyline[class^=line] { stroke: var(--c); } circle[class^=line] { fill: var(--c); }
.sheet { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.shot { display: flex; gap: 12px; padding: 11px; font-size: 13px; line-height: 1.35; min-width: 0; }
.shot > img { flex: none; }
img { display: block; width: 84px; height: 84px; object-fit: contain; background: #fff; border-radius: 6px;
  border: 1px solid var(--rule); }
.shot .words { min-width: 0; flex: 1; overflow-wrap: anywhere; }
.truth { font-weight: 650; }
.shot .head { display: flex; gap: 7px; align-items: baseline; }
.shot .head .truth { overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
.badge { display: inline-block; font-size: 12px; font-weight: 650; border-radius: 5px; padding: 0 6px;
  white-space: nowrap; }
.badge.good { background: var(--good-wash); } .badge.near { background: var(--near-wash); }
.badge.bad { background: var(--bad-wash); }
ol.guesses { list-style: none; margin: 5px 0 0; padding: 0; color: var(--quiet); }
ol.guesses li { padding-left: 16px; position: relative; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
ol.guesses li::before { content: "·"; position: absolute; left: 3px; }
ol.guesses li.hit { color: var(--good); font-weight: 600; }
ol.guesses li.hit::before { content: "✓"; left: 0; }
.searches { grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); }
.search { padding: 13px 15px 15px; min-width: 0; }
.search .asked { font-size: 15px; font-weight: 600; margin-bottom: 9px; display: flex; gap: 10px; align-items: baseline;
  justify-content: space-between; }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: 8px; }
.row img { width: 100%; height: auto; aspect-ratio: 1; }
img.hit { border: 3px solid var(--good); }
.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 14px 28px; align-items: start; }
.two > div { min-width: 0; }
.stack { display: grid; gap: 12px; }
.bars { display: grid; grid-template-columns: minmax(0, max-content) 1fr auto; gap: 2px 9px; margin-top: 6px;
  align-items: center; }
.bars .meter i { background: var(--track); } .bars .meter { background: none; height: 9px; }
.bars .meter i { background: color-mix(in srgb, var(--quiet) 45%, transparent); }
.bars .given + .meter i { background: var(--bad); } .bars .right + .meter i { background: var(--good); }
.bars .right { font-weight: 650; color: var(--good); } .bars .given:not(.right) { font-weight: 650; color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--quiet); font-size: 13px; }
th, td { padding: 6px 18px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; }
td .meter { min-width: 70px; }
.panel { padding: 12px 18px; overflow-x: auto; }
details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; padding: 10px 16px; }
pre { margin: 0; padding: 4px 18px 16px; overflow-x: auto; font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo,
  "DejaVu Sans Mono", monospace; }
footer { margin-top: 56px; padding-top: 16px; border-top: 1px solid var(--rule); font-size: 13px; color: var(--quiet); }
@media (max-width: 640px) {
  main { padding: 24px 14px 48px; }
  h1 { font-size: 27px; } h2 { margin-top: 44px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } .tile { padding: 12px 13px; } .tile .value { font-size: 27px; }
  .tile .name { font-size: 13px; }
  .row { gap: 5px; }
}
"""
