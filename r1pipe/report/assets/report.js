"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function svg(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function fill(select, names) {
    for (const name of names) {
      const option = element("option", "", name);
      option.value = name;
      select.append(option);
    }
  }

  function checkboxes(parent, names, isChosen, onChange) {
    return names.map((name, place) => {
      const label = element("label");
      const box = element("input");
      box.type = "checkbox";
      box.checked = isChosen(place);
      box.addEventListener("change", onChange);
      label.append(box, ` ${name}`);
      parent.append(label);
      return box;
    });
  }

  function number(value) {
    if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) return value.toExponential(2);
    return String(Number(value.toPrecision(4)));
  }

  // ---- the graph: what a stage reads, and what reads it --------------------------------------

  for (const node of document.querySelectorAll("#graph a[data-stage]")) {
    const name = node.dataset.stage;
    const near = [...document.querySelectorAll("#graph .edge")].filter(({ dataset }) => dataset.from === name || dataset.to === name);
    const mark = (isOn) => near.forEach((edge) => edge.classList.toggle("near", isOn));
    for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => mark(true));
    for (const event of ["pointerleave", "blur"]) node.addEventListener(event, () => mark(false));
  }

  // ---- learning curves ----------------------------------------------------------------------

  const HEIGHT = 340, LEFT = 76, RIGHT = 12, TOP = 10, BOTTOM = 30;
  let WIDTH = 1000;  // a narrow window has a narrow plot, with text of the same size
  const DASHES = ["", "7 4", "2 3", "10 3 2 3"];
  let zoom = null;

  function smoothed(points, weight) {
    let mean = points.length ? points[0][1] : 0;
    return points.map(([step, value]) => [step, (mean = weight * mean + (1 - weight) * value)]);
  }

  function chosenCurves() {
    const metric = byId("metric").value, weight = Number(byId("smooth").value);
    return data.curves
      .map((curve, place) => ({ place, label: curve.label, points: curve.metrics[metric] }))
      .filter(({ place, points }) => points && runs[place].checked)
      .map((curve) => ({ ...curve, points: smoothed(curve.points, weight) }));
  }

  function extent(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return [0, 1];
    return low === high ? [low - 0.5, high + 0.5] : [low, high];
  }

  function axes(plot, x, y, [x0, x1], [y0, y1]) {
    for (let tick = 0; tick <= 4; tick += 1) {
      const value = y0 + ((y1 - y0) * tick) / 4, step = x0 + ((x1 - x0) * tick) / 4;
      plot.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
      plot.append(svg("text", { class: "tick last", x: LEFT - 8, y: y(value) + 4 }, number(value)));
      if (Number.isInteger(step) || x1 - x0 > 40) {
        plot.append(svg("text", { class: "tick", x: x(step), y: HEIGHT - 8 }, number(Math.round(step))));
      }
    }
  }

  function draw() {
    const holder = byId("plot"), curves = chosenCurves();
    WIDTH = Math.min(1000, Math.max(320, holder.clientWidth));
    holder.replaceChildren();
    if (!curves.length) {
      holder.append(element("p", "note", "No result that is chosen has this metric."));
      return;
    }
    const range = zoom || extent(curves.flatMap((curve) => curve.points.map((point) => point[0])));
    const inside = curves.map((curve) => curve.points.filter(([step]) => step >= range[0] && step <= range[1]));
    const values = extent(inside.flat().map((point) => point[1]));
    const x = (step) => LEFT + ((step - range[0]) / (range[1] - range[0])) * (WIDTH - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (value - values[0]) / (values[1] - values[0])) * (HEIGHT - TOP - BOTTOM);
    const described = curves.map((curve, i) => {
      const last = inside[i].length ? number(inside[i][inside[i].length - 1][1]) : "none";
      return `${curve.label} ends at ${last}`;
    });
    const plot = svg("svg", {
      class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
      "aria-label": `${byId("metric").value} by step: ${described.join("; ")}`,
    });
    axes(plot, x, y, range, values);
    const legend = element("p", "legend");
    curves.forEach((curve, i) => {
      const path = inside[i].map(([step, value], n) => `${n ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`);
      const line = svg("path", { class: "line", d: path.join("") });
      line.style.stroke = `var(--c${i % 8})`;
      line.style.strokeDasharray = DASHES[Math.floor(i / 8) % 4] || DASHES[i % 4];
      plot.append(line);
      const key = svg("svg", { width: 34, height: 10, "aria-hidden": "true" });
      const stroke = line.cloneNode();
      stroke.setAttribute("d", "M0,5L34,5");
      key.append(stroke);
      legend.append(key, ` ${described[i]}   `);
    });
    zoomable(plot, (px) => range[0] + ((px - LEFT) / (WIDTH - LEFT - RIGHT)) * (range[1] - range[0]));
    holder.append(element("p", "meta", `${byId("metric").value} by step`), plot, legend);
    current = range;
  }

  let current = [0, 1];

  function zoomable(plot, stepAt) {
    let start = null;
    const mark = svg("rect", { class: "select", y: TOP, height: HEIGHT - TOP - BOTTOM, width: 0 });
    plot.append(mark);
    const at = (event) => ((event.clientX - plot.getBoundingClientRect().left) / plot.getBoundingClientRect().width) * WIDTH;
    plot.addEventListener("pointerdown", (event) => {
      start = at(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => {
      if (start === null) return;
      mark.setAttribute("x", Math.min(start, at(event)));
      mark.setAttribute("width", Math.abs(at(event) - start));
    });
    plot.addEventListener("pointerup", (event) => {
      const [from, to] = [start, at(event)].sort((a, b) => a - b);
      start = null;
      if (to - from > 6) zoomTo(stepAt(from), stepAt(to));
      else mark.setAttribute("width", 0);
    });
  }

  function zoomTo(from, to) {
    zoom = to - from > 0 ? [from, to] : null;
    draw();
  }

  function zoomBy(factor) {
    const middle = (current[0] + current[1]) / 2, half = ((current[1] - current[0]) / 2) * factor;
    zoomTo(middle - half, middle + half);
  }

  const metrics = [...new Set(data.curves.flatMap((curve) => Object.keys(curve.metrics)))];
  const preferred = ["pass_rate", "reward", "loss"].filter((name) => metrics.includes(name));
  fill(byId("metric"), [...preferred, ...metrics.filter((name) => !preferred.includes(name)).sort()]);
  const runs = checkboxes(byId("runs"), data.curves.map((curve) => curve.label), (i) => data.curves[i].is_chosen, draw);
  for (const id of ["metric", "smooth"]) byId(id).addEventListener("input", draw);
  byId("zoom-in").addEventListener("click", () => zoomBy(0.5));
  byId("zoom-out").addEventListener("click", () => zoomBy(2));
  byId("zoom-all").addEventListener("click", () => zoomTo(0, 0));
  draw();
  addEventListener("resize", () => requestAnimationFrame(draw));

  // ---- samples ------------------------------------------------------------------------------

  const PER_PAGE = 10, SHOWN = 4;
  const { stages, problems, rows } = data.samples;
  const ofProblem = problems.map(() => []);
  rows.forEach((row, place) => ofProblem[row[0]].push(place));
  let page = 0, found = [];

  function fits(problem, text, verdict, models) {
    const own = ofProblem[problem].filter((place) => models[rows[place][1]]);
    if (!own.length) return false;
    if (verdict && !own.some((place) => rows[place][4] === verdict)) return false;
    if (byId("differ").checked && new Set(own.map((place) => rows[place][4])).size < 2) return false;
    if (!text) return true;
    const [, prompt, gold] = problems[problem];
    return prompt.toLowerCase().includes(text) || gold.toLowerCase().includes(text) ||
      own.some((place) => rows[place][2].toLowerCase().includes(text));
  }

  function filter() {
    const set = byId("set").value, verdict = byId("verdict").value;
    const text = byId("search").value.toLowerCase(), models = boxes.map((box) => box.checked);
    found = [];
    for (let problem = 0; problem < problems.length; problem += 1) {
      if ((set === "all" || problems[problem][0] === set) && fits(problem, text, verdict === "all" ? "" : verdict, models)) found.push(problem);
    }
    page = 0;
    showPage();
  }

  function answer(row) {
    const [, stage, completion, extracted, verdict, tokens, rewards] = row;
    const made = element("div", `answer ${verdict}`);
    const meta = [stages[stage], verdict, tokens === null ? "" : `${tokens} tokens`, rewards && `reward ${rewards}`];
    made.append(element("div", "meta", meta.filter(Boolean).join(", ")));
    const end = completion.indexOf("</think>");
    const split = end < 0 ? 0 : end + "</think>".length;
    if (split) made.append(element("p", "thought", completion.slice(0, split)));
    made.append(element("p", "", completion.slice(split).trim()));
    if (extracted) made.append(element("div", "meta", `answer read: ${extracted}`));
    return made;
  }

  function showPage() {
    const holder = byId("problems"), models = boxes.map((box) => box.checked);
    const last = Math.max(0, Math.ceil(found.length / PER_PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    const shown = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    byId("position").textContent = `${found.length} problems, page ${page + 1} of ${last + 1}`;
    holder.replaceChildren(...shown.map((problem) => {
      const [set, prompt, gold, task] = problems[problem];
      const made = element("article", "problem");
      made.append(element("div", "meta", [set, task, `gold answer: ${gold}`].filter(Boolean).join(", ")));
      made.append(element("p", "prompt", prompt));
      const side = element("div", "side"), count = new Map();
      for (const place of ofProblem[problem]) {
        const stage = rows[place][1], seen = count.get(stage) || 0;
        count.set(stage, seen + 1);
        if (models[stage] && seen < SHOWN) side.append(answer(rows[place]));
      }
      made.append(side);
      return made;
    }));
  }

  fill(byId("set"), ["all", ...new Set(problems.map((problem) => problem[0]))]);
  fill(byId("verdict"), ["all", ...new Set(rows.map((row) => row[4]).filter(Boolean))]);
  const boxes = checkboxes(byId("models"), stages, () => true, filter);
  for (const id of ["set", "verdict", "search", "differ"]) byId(id).addEventListener("input", filter);
  byId("previous").addEventListener("click", () => { page -= 1; showPage(); });
  byId("next").addEventListener("click", () => { page += 1; showPage(); });
  filter();

  // ---- links into folded details, and a page that is watched -----------------------------------

  function unfold() {
    const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  }
  addEventListener("hashchange", unfold);
  unfold();

  if (document.body.dataset.watched) {
    let version = null;
    setInterval(async () => {
      try {
        const now = await (await fetch("version")).text();
        if (version !== null && now !== version) location.reload();
        version = now;
      } catch { /* the run's server has ended; the page stays */ }
    }, 5000);
  }
})();
