#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the benchmark's JSON into one page with plots: bazel run -c opt //bench:report -- FILE.json [FILE.html | FILE.svg]

The page needs nothing else: no script, no font, no network. It follows the reader's choice of light or dark. FILE.svg is one
picture alone, what an empty layer costs.
"""

import html
import json
import math
import os
import re
import sys

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 14, 46

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --faint: #59636e; --line: #d1d9e0; --page: #ffffff; --row: #f6f8fa;
  --c0: #b42318; --c1: #0550ae; --c2: #6a3fb5; --c3: #12715b; --c4: #8a5a00; --c5: #a0307f; --c6: #35655f; --c7: #5b6b00;
  --c8: #7a4a2b; --c9: #4d5561; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --faint: #9198a1; --line: #3d444d; --page: #0d1117; --row: #151b23;
  --c0: #ff8a7a; --c1: #6cb6ff; --c2: #c297ff; --c3: #56d4aa; --c4: #e3b341; --c5: #f59ad0; --c6: #8fd3c8; --c7: #c5d25c;
  --c8: #dca888; --c9: #b6bfca; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 1000px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2.2em; } p { max-width: 46em; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 0.5em 0 1.5em; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { white-space: normal; }
tr.ours td { background: var(--row); font-weight: 600; } code { font-size: 0.9em; } .faint { color: var(--faint); }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg .tick { fill: var(--faint); } svg .grid { stroke: var(--line); stroke-width: 1; } svg .curve { fill: none; }
"""


def short(value):
    """A number for an axis or a cell: 1.2 M, 34 k, 0.71."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def median(result, metric):
    spread = result["summary"].get(metric)
    return spread["median"] if spread else None


class Axis:
    """Maps values to places between two pixels, by their size or by their logarithm."""

    def __init__(self, values, begin, end, log, from_zero=False):
        self.log, self.begin, self.end = log, begin, end
        self.low, self.high = min(values), max(values)
        if from_zero:
            self.low = 0
            self.high *= 1.05
        if self.high <= self.low:
            self.high = self.low * 1.1 + 1

    def at(self, value):
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def ticks(self):
        if self.log:
            found = [m * 10**e for e in range(-3, 10) for m in (1, 2, 5)]
            return [t for t in found if self.low <= t <= self.high]
        step = 10 ** math.floor(math.log10(self.high - self.low))
        if (self.high - self.low) / step < 4:
            step /= 2 if (self.high - self.low) / step >= 2 else 4
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, int(self.high / step) + 1)]


def plot(title, curves, x_title, y_title, x_ticks=None, x_log=False, y_log=False):
    """One SVG. `curves`: (name, color, thick, [(x, y, hint)]); `x_ticks`: [(x, label)]."""
    curves = [c for c in curves if c[3]]
    if not curves:
        return ""
    xs = [x for c in curves for x, _, _ in c[3]]
    ys = [y for c in curves for _, y, _ in c[3]]
    x_axis = Axis(xs, LEFT, WIDTH - RIGHT, x_log)
    y_axis = Axis(ys, HEIGHT - BOTTOM, TOP, y_log, from_zero=not y_log)
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
           f'aria-label="{html.escape(title, quote=True)}">']
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick, label in x_ticks or [(t, short(t)) for t in x_axis.ticks()]:
        x = x_axis.at(tick)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_title)}</text>')
    out.append(f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
               f'{html.escape(y_title)}</text>')
    for name, color, thick, points in curves:
        places = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y, _ in points)
        out.append(f'<polyline class="curve" points="{places}" stroke="var({color})" stroke-width="{3 if thick else 1.6}"/>')
        for x, y, hint in points:
            out.append(f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="{4 if thick else 3}" fill="var({color})">'
                       f"<title>{html.escape(name)}: {html.escape(hint)}</title></circle>")
    # Names at the ends of the curves, moved apart.
    ends = sorted((y_axis.at(c[3][-1][1]), x_axis.at(c[3][-1][0]), c[0], c[1], c[2]) for c in curves)
    places, at = [], TOP
    for end in ends:
        at = max(at + 15, end[0] + 4)
        places.append(at)
    overrun = places[-1] - (HEIGHT - BOTTOM + 4)
    for i in reversed(range(len(places))):
        limit = HEIGHT - BOTTOM + 4 if i == len(places) - 1 else places[i + 1] - 15
        places[i] = min(places[i], limit) if overrun > 0 else places[i]
    for (y, x, name, color, thick), place in zip(ends, places):
        out.append(f'<line x1="{x + 5:.1f}" y1="{y:.1f}" x2="{WIDTH - RIGHT + 22}" y2="{place - 4:.1f}" stroke="var({color})" '
                   'stroke-width="0.7" opacity="0.6"/>')
        weight = ' font-weight="bold"' if thick else ""
        out.append(f'<text x="{WIDTH - RIGHT + 26}" y="{place:.1f}" style="fill: var({color})"{weight}>{html.escape(name)}</text>')
    out.append("</svg>")
    return "".join(out)


class Page:
    def __init__(self, data):
        self.data = data
        names = []
        for subject in data["subjects"]:
            if subject["name"] not in names:
                names.append(subject["name"])
        self.colors = {name: f"--c{i % 10}" for i, name in enumerate(names)}
        self.out = []

    def add(self, text):
        self.out.append(text)

    def heading(self, title, text=""):
        self.add(f"<h2>{html.escape(title)}</h2>")
        if text:
            self.add(f"<p>{html.escape(text)}</p>")

    def figure(self, svg):
        self.add(f'<div class="wide">{svg}</div>')

    def curves(self, points):
        """`points`: {(name, kind): [(x, y, hint)]}, in the order of the subjects."""
        return [(name, self.colors.get(name, "--c9"), kind == "ours" and name == "buse", sorted(line))
                for (name, kind), line in points.items()]

    def by_depth(self, metric, y_title, y_log):
        families = {}
        for row in self.data["rows"]:
            match = re.fullmatch(r"memory/(\w+-\w+)-d(\d+)", row["name"])
            if match:
                families.setdefault(match[1], []).append((int(match[2]), row))
        for family, rows in families.items():
            if len(rows) < 3:
                continue
            points = {}
            for depth, row in sorted(rows, key=lambda r: r[0]):
                for result in row["results"]:
                    value = median(result, metric)
                    if value:
                        points.setdefault((result["subject"], result["kind"]), []).append(
                            (depth, value, f"depth {depth}: {short(value)}"))
            ticks = [(depth, str(depth)) for depth, _ in sorted(rows, key=lambda r: r[0])]
            self.add(f"<h3>{html.escape(family)}</h3>")
            self.figure(plot(f"{family}: {y_title} by depth", self.curves(points), "requests in flight", y_title, ticks, True,
                             y_log))

    def latencies(self, row):
        points = {}
        for result in row["results"]:
            for metric in result["summary"]:
                match = re.fullmatch(r"latency_p([\d.]+)_us", metric)
                if not match or not median(result, metric):
                    continue
                percent = float(match[1])
                # So that 90, 99 and 99.9 % lie at equal distances.
                points.setdefault((result["subject"], result["kind"]), []).append(
                    (-math.log10(1 - percent / 100), median(result, metric), f"{percent:g} %: {short(median(result, metric))} µs"))
        ticks = [(-math.log10(1 - p / 100), f"{p:g} %") for p in (50, 90, 99, 99.9, 99.99)]
        return plot(f"{row['name']}: latency", self.curves(points), "part of the requests that took no longer", "µs", ticks, False,
                    True)

    def layers_plot(self):
        """What an empty layer costs, as SVG; empty where that was not measured."""
        families = {"buse": [], "nbdkit": []}
        for row in self.data["rows"]:
            if row["group"] != "layers" or not row.get("work"):
                continue
            for result in row["results"]:
                name, _, layers = result["subject"].rpartition("-")
                value = median(result, "server_cpu_us_per_request")
                if value:
                    families[name].append((int(layers), value, f"{layers} layers: {value:.2f} µs"))
            break
        return plot("cost of an empty layer", [(n, "--c1" if n == "buse" else "--c0", n == "buse", sorted(p))
                                               for n, p in families.items()],
                    "layers", "µs of CPU per request", [(n, str(n)) for n in (0, 4, 8, 16, 24, 32)])

    def layers(self):
        picture = self.layers_plot()
        if not picture:
            return
        self.heading("What an empty layer costs",
                     "CPU of the server for each request through layers that do nothing: Passthrough over Memory, compiled into one "
                     "program, and nbdkit's nofilter, loaded at run time. Both with one thread for each connection or in all.")
        self.figure(picture)

    def render_layers(self):
        picture = self.layers_plot()
        if not picture:
            raise ValueError("it has no row of the group layers: measure with --rows layers")
        return picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f"><style>{STYLE}</style>", 1)

    def table(self, row):
        works = bool(row.get("work"))
        below = any("below_flushes_per_write" in r["summary"] for r in row["results"])
        titles = ["requests/s", "spread", "µs CPU", "p50 µs", "p99 µs"] if works else ["memory", "µs CPU in 1 s, idle"]
        titles += ["bytes below per write", "flushes below per write"] if below else []
        self.add(f"<h3>{html.escape(row['name'])}</h3><p class='faint'><code>{html.escape(row['command'])}</code></p>")
        self.add("<div class='wide'><table><tr><th></th>" + "".join(f"<th>{t}</th>" for t in titles) + "<th>ratios</th></tr>")
        for result in row["results"]:
            rate = result["summary"].get("requests_per_second")
            cell = lambda metric: "" if median(result, metric) is None else short(median(result, metric))
            if works:
                spread = f"{rate['min'] / rate['median']:.2f}–{rate['max'] / rate['median']:.2f}" if rate else ""
                cells = [f"{rate['median']:,.0f}" if rate else "", spread, cell("server_cpu_us_per_request"),
                         cell("latency_p50_us"), cell("latency_p99_us")]
            else:
                memory = median(result, "memory_bytes")
                cells = [f"{memory / 2**30:.3f} GiB" if memory else "", cell("server_cpu_us_per_second")]
            if below:
                cells += [cell("below_bytes_written_per_write"), cell("below_flushes_per_write")]
            ratios = {}
            for ratio in result["ratios"]:
                kind = "" if ratio["metric"] == "requests_per_second" else "CPU "
                ratios.setdefault(ratio["to"], []).append(f"{kind}{ratio['ratio']['median']:.2f} ×")
            text = "; ".join(f"{to}: {', '.join(values)}" for to, values in ratios.items()) or result.get("failure", "")
            style = " class='ours'" if result["kind"] == "ours" else ""
            self.add(f"<tr{style}><td>{html.escape(result['subject'])}</td>" + "".join(f"<td>{c}</td>" for c in cells) +
                     f"<td class='text'>{html.escape(text)}</td></tr>")
        self.add("</table></div>")

    def render(self):
        data = self.data
        self.add("<h1>Servers of block devices, side by side</h1>")
        notes = [f"{data['runs']} runs of {data['seconds']:g} s each, in turns; medians. Client and servers on one machine, Unix "
                 f"sockets, {data['size'] >> 20} MiB devices, placement {data['placement']}. {data['date']}."]
        if data["runs"] < data["runs_for_ratios"]:
            notes.append(f"Too few runs for ratios, which take {data['runs_for_ratios']}: these figures only show that all works.")
        if data["machine"].get("optimized") != "yes":
            notes.append("Not an optimized build: these figures mean nothing.")
        for note in notes:
            self.add(f"<p>{html.escape(note)}</p>")
        self.add("<table>" + "".join(f"<tr><td>{html.escape(k)}</td><td class='text'>{html.escape(v)}</td></tr>"
                                     for k, v in data["machine"].items()) + "</table>")
        depths = [r for r in data["rows"] if re.fullmatch(r"memory/\w+-\w+-d\d+", r["name"])]
        if len(depths) >= 3:
            self.heading("Throughput by depth", "One connection to a disk in memory.")
            self.by_depth("requests_per_second", "requests per second", False)
            self.heading("CPU of the server by depth", "What the system counts for the server, divided by the requests answered. "
                         "The scale is logarithmic.")
            self.by_depth("server_cpu_us_per_request", "µs of CPU per request", True)
        self.layers()
        rows = [r for r in data["rows"] if r["name"] in ("memory/4k-randread-d32", "memory/4k-randread-d1", "file/4k-randread-d32",
                                                         "direct/4k-randread-d32")]
        if rows:
            self.heading("Latency", "Both scales are logarithmic: what is right of 99 % happens to one request in a hundred.")
            for row in rows:
                self.add(f"<h3>{html.escape(row['name'])}</h3>")
                self.figure(self.latencies(row))
        self.heading("All rows", "Ratios are medians of the ratios within each run. Spread: the worst and the best run over the median.")
        for row in data["rows"]:
            self.table(row)
        self.heading("Who was measured")
        self.add("<div class='wide'><table>")
        for s in data["subjects"]:
            self.add(f"<tr><td>{html.escape(s['group'])}/{html.escape(s['name'])}</td><td class='text'>{html.escape(s['what'])}</td>"
                     f"<td class='text'>{html.escape(s['version'])}</td><td class='text'><code>{html.escape(s['command'])}</code></td></tr>")
        self.add("</table></div>")
        for missing in data["missing"]:
            self.add(f"<p>Not measured: {html.escape(missing['subject'])}: {html.escape(missing['reason'])}.</p>")
        return (f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
                f"<title>Servers of block devices, side by side</title><style>{STYLE}</style>{''.join(self.out)}</html>\n")


def main(arguments):
    if len(arguments) not in (1, 2) or arguments[0] in ("-h", "--help"):
        print(__doc__.split("\n")[0], file=sys.stderr)
        return 2
    # Where `bazel run` was called.
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    target = arguments[1] if len(arguments) == 2 else os.path.splitext(arguments[0])[0] + ".html"
    try:
        with open(arguments[0], encoding="utf-8") as file:
            data = json.load(file)
        if data.get("format") != "buse-bench 1":
            raise ValueError('its format is not "buse-bench 1"')
        page = Page(data).render_layers() if target.endswith(".svg") else Page(data).render()
        with open(target, "w", encoding="utf-8") as file:
            file.write(page)
    except (OSError, ValueError) as error:
        print(f"report: {arguments[0]}: {error}", file=sys.stderr)
        return 1
    print(f"report: wrote {os.path.abspath(target)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
