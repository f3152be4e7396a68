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

  const HEIGHT = 360, RIGHT = 26, TOP = 10, BOTTOM = 50;
  let WIDTH = 1000;  // a narrow window has a narrow plot, with text of the same size
  let LEFT = 76;  // as the numbers there need
  const DASHES = ["", "7 4", "2 3", "10 3 2 3"];
  const MOST_TICKS = 6, STEP_WIDTH = 90, DIGIT_WIDTH = 7.5;
  let zoom = null, current = [0, 1], whole = [0, 1];

  function smoothed(points, weight) {
    let mean = points.length ? points[0][1] : 0;
    return points.map(([step, value]) => [step, (mean = weight * mean + (1 - weight) * value)]);
  }

  function chosenCurves() {
    const metric = byId("metric").value, weight = Number(byId("smooth").value);
    data.curves.forEach((curve, i) => { runs[i].parentElement.hidden = !curve.metrics[metric]; });
    return data.curves
      .map(({ label, metrics: { [metric]: points } }, i) => ({ box: runs[i], label, points }))
      .filter(({ points }) => points)
      .map((curve, place) => ({ ...curve, place }))  // its colour, whatever is chosen beside it
      .filter(({ box }) => box.checked)
      .map((curve) => ({ ...curve, points: smoothed(curve.points, weight) }));
  }

  function extent(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return [0, 1];
    if (low === high && low === 0) return [0, 1];
    const around = Math.abs(low) / 2;
    return low === high ? [low - around, high + around] : [low, high];
  }

  function stepOf([low, high], most) {
    const least = (high - low) / most, power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * (1 - 1e-9));
  }

  function ticks([low, high], step) {
    const first = Math.ceil(low / step - 1e-6), last = Math.floor(high / step + 1e-6);
    return Array.from({ length: last - first + 1 }, (_, n) => (first + n) * step);
  }

  function tickText(value, step) {
    const digits = Math.floor(Math.log10(step) + 1e-9), size = Math.log10(Math.abs(value) || 1);
    if (Math.abs(value) < step / 2) return "0";
    if (size >= 9 || digits < -4) return value.toExponential(Math.max(0, Math.floor(size + 1e-9) - digits));
    const places = Math.max(0, -digits);
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  }

  function roomy([low, high]) {
    const room = (high - low) / 20;
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  }

  function axes(plot, x, y, range, values, step) {
    const across = Math.max(1, stepOf(range, Math.max(2, (WIDTH - LEFT - RIGHT) / STEP_WIDTH)));
    for (const value of ticks(values, step)) {
      plot.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
      plot.append(svg("text", { class: "tick last", x: LEFT - 8, y: y(value) + 4 }, tickText(value, step)));
    }
    for (const value of ticks(range, across)) {
      plot.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 5 }));
      plot.append(svg("text", { class: "tick", x: x(value), y: HEIGHT - BOTTOM + 19 }, tickText(value, across)));
    }
    plot.append(svg("text", { class: "tick", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8 }, "step"));
  }

  function draw() {
    const holder = byId("plot"), curves = chosenCurves();
    WIDTH = Math.min(1000, Math.max(320, holder.clientWidth));
    holder.replaceChildren();
    if (!curves.length) {
      holder.append(element("p", "note", "No result that is chosen has this metric."));
      return;
    }
    whole = extent(curves.flatMap((curve) => curve.points.map((point) => point[0])));
    if (zoom && (zoom[1] <= whole[0] || zoom[0] >= whole[1])) zoom = null;
    const range = zoom || whole;
    const inside = curves.map((curve) => curve.points.filter(([step]) => step >= range[0] && step <= range[1]));
    const values = roomy(extent(inside.flat().map((point) => point[1]))), step = stepOf(values, MOST_TICKS);
    LEFT = 12 + DIGIT_WIDTH * Math.max(5, ...ticks(values, step).map((value) => tickText(value, step).length));
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
    axes(plot, x, y, range, values, step);
    const legend = element("p", "legend");
    curves.forEach((curve, i) => {
      const path = inside[i].map(([step, value], n) => `${n ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`);
      const line = svg("path", { class: "line", d: path.join("") });
      line.style.stroke = `var(--c${curve.place % 8})`;
      line.style.strokeDasharray = DASHES[(curve.place + Math.floor(curve.place / 8)) % 4];
      plot.append(line);
      const key = svg("svg", { width: 34, height: 10, "aria-hidden": "true" });
      const stroke = line.cloneNode();
      stroke.setAttribute("d", "M0,5L34,5");
      key.append(stroke);
      const entry = element("span", "entry");
      entry.append(key, ` ${described[i]}`);
      legend.append(entry, " ");
    });
    zoomable(plot, (px) => range[0] + ((px - LEFT) / (WIDTH - LEFT - RIGHT)) * (range[1] - range[0]));
    holder.append(element("p", "meta", `${byId("metric").value} by step`), plot, legend);
    current = range;
  }

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
    plot.addEventListener("pointercancel", () => {
      start = null;
      mark.setAttribute("width", 0);
    });
  }

  function zoomTo(from, to) {
    const width = to - from, first = Math.max(whole[0], Math.min(from, whole[1] - width));
    const range = width > 0 && width < whole[1] - whole[0] ? [first, first + width] : null;
    const within = ([step]) => step >= range[0] && step <= range[1];
    if (range && !chosenCurves().some(({ points }) => points.filter(within).length > 1)) return;
    zoom = range;
    draw();
  }

  function zoomBy(factor) {
    const middle = (current[0] + current[1]) / 2, half = ((current[1] - current[0]) / 2) * factor;
    zoomTo(middle - half, middle + half);
  }

  function moveBy(frac) {
    const by = (current[1] - current[0]) * frac;
    zoomTo(current[0] + by, current[1] + by);
  }

  const metrics = [...new Set(data.curves.flatMap((curve) => Object.keys(curve.metrics)))];
  const preferred = ["pass_rate", "reward", "loss"].filter((name) => metrics.includes(name));
  fill(byId("metric"), [...preferred, ...metrics.filter((name) => !preferred.includes(name)).sort()]);
  const runs = checkboxes(byId("runs"), data.curves.map((curve) => curve.label), (i) => data.curves[i].is_chosen, draw);
  for (const id of ["metric", "smooth"]) byId(id).addEventListener("input", draw);
  byId("zoom-in").addEventListener("click", () => zoomBy(0.5));
  byId("zoom-out").addEventListener("click", () => zoomBy(2));
  byId("zoom-all").addEventListener("click", () => zoomTo(0, 0));
  byId("earlier").addEventListener("click", () => moveBy(-0.5));
  byId("later").addEventListener("click", () => moveBy(0.5));
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
    const meta = [stages[stage], verdict, tokens === null ? "" : `${tokens} token${tokens === 1 ? "" : "s"}`, rewards && `reward ${rewards}`];
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
    const [count, at, of] = [found.length, page + 1, last + 1].map((each) => each.toLocaleString("en"));
    const place = `${count} problem${found.length === 1 ? "" : "s"}, page ${at} of ${of}`;
    for (const id of ["position", "position-below"]) byId(id).textContent = place;
    byId("below").hidden = last === 0;
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
    for (const text of holder.querySelectorAll("p")) {
      if (text.scrollHeight <= text.clientHeight) continue;
      text.tabIndex = 0;  // a long one scrolls, by the keyboard too
      text.setAttribute("role", "group");
      text.setAttribute("aria-label", text.className === "prompt" ? "problem, scrolls" : "completion, scrolls");
    }
  }

  fill(byId("set"), ["all", ...new Set(problems.map((problem) => problem[0]))]);
  fill(byId("verdict"), ["all", ...new Set(rows.map((row) => row[4]).filter(Boolean))]);
  const boxes = checkboxes(byId("models"), stages, () => true, filter);
  for (const id of ["set", "verdict", "search", "differ"]) byId(id).addEventListener("input", filter);
  for (const [id, by] of [["previous", -1], ["next", 1], ["previous-below", -1], ["next-below", 1]]) {
    byId(id).addEventListener("click", () => {
      page += by;
      showPage();
      if (id.endsWith("below")) byId("samples").scrollIntoView();
    });
  }
  filter();

  // ---- links into folded details, and a page that is watched -----------------------------------

  function unfold() {
    const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  }
  addEventListener("hashchange", unfold);
  unfold();

  // What the reader chose outlives a new page: fields, boxes, folded details, zoom, page of samples.
  const KEPT = "r1pipe";

  function keep() {
    const fields = [...document.querySelectorAll("select, input")];
    const focused = document.activeElement;
    sessionStorage.setItem(KEPT, JSON.stringify({
      fields: fields.map((field) => [nameOf(field), field.type === "checkbox" ? field.checked : field.value]),
      open: [...document.querySelectorAll("details[open]")].map(({ id }) => id).filter(Boolean),
      zoom, page, top: scrollY, focused: nameOf(focused),
      selection: focused.type === "search" ? [focused.selectionStart, focused.selectionEnd] : null,
    }));
  }

  function nameOf(field) {
    return field.id || (field.type === "checkbox" ? `${field.closest("fieldset").id} ${field.parentElement.textContent}` : "");
  }

  function takeUp() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
    sessionStorage.removeItem(KEPT);
    if (!kept) return;
    const fields = new Map([...document.querySelectorAll("select, input")].map((field) => [nameOf(field), field]));
    for (const [name, value] of kept.fields) {
      const field = fields.get(name);
      if (!field) continue;
      if (field.type === "checkbox") field.checked = value;
      else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value)) field.value = value;
    }
    for (const id of kept.open) if (byId(id)) byId(id).open = true;
    zoom = kept.zoom;
    draw();
    filter();
    page = kept.page;
    showPage();
    scrollTo(0, kept.top);
    const focused = fields.get(kept.focused) || byId(kept.focused);
    if (focused) focused.focus({ preventScroll: true });
    if (kept.selection) focused.setSelectionRange(...kept.selection);
  }

  if (document.body.dataset.watched) {
    takeUp();
    setInterval(async () => {
      try {
        const answer = await fetch("version");
        if (!answer.ok) throw new Error(answer.statusText);
        byId("followed").textContent = "";
        if (await answer.text() !== document.body.dataset.watched) {
          keep();
          location.reload();
        }
      } catch {
        byId("followed").textContent = "Its server does not answer: the page stays as it is.";
      }
    }, 5000);
  }
  document.body.dataset.ready = "yes";
})();
