// What a fragment and a report share: a picture with a heatmap over it, drawn from its cells.

// How many cells the table of a filter spans, its own in the middle.
const SPAN = 7;

// Cells of `height` rows stretched to `length` columns, and turned over: rows become columns.
function stretched(cells, height, length, filter) {
  const width = cells.length / height;
  const made = new Float32Array(length * height);
  for (let x = 0; x < length; x++) {
    const at = ((x + 0.5) * width) / length;
    const first = Math.max(0, Math.floor(at) - 3);
    const end = Math.min(width, Math.floor(at) + 4);
    const shares = [];
    for (let j = first; j < end; j++) {
      shares.push(filter[Math.floor(((at - j - 0.5) / SPAN + 0.5) * filter.length)]);
    }
    const all = shares.reduce((a, b) => a + b);
    for (let y = 0; y < height; y++) {
      let sum = 0;
      shares.forEach((share, k) => { sum += share * cells[y * width + first + k]; });
      made[x * height + y] = sum / all;
    }
  }
  return made;
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function element(tag, name, attributes = {}) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// How heatmaps are drawn, with a sign and without, by the tables that stand in `root`.
function looksIn(root) {
  const found = {};
  return (kind) => {
    if (!found[kind]) {
      const store = root.querySelector(`.ks-look[data-kind="${kind}"]`);
      const { colours, filter } = JSON.parse(store.textContent);
      found[kind] = { colours: bytes(colours), filter: new Int16Array(bytes(filter).buffer) };
    }
    return found[kind];
  };
}

// In JupyterLab the keys go to what has this and the focus, and not to the notebook.
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

// The list of classes as radio buttons; of a single one, as it is.
function makeChoice(form) {
  const rows = form.querySelector(".ks-targets");
  if (!rows) return;
  rows.hidden = false;
  if (rows.children.length < 2) return;
  const choice = element("fieldset", "ks-targets");
  const legend = element("legend");
  legend.textContent = "Class and score";
  choice.append(legend);
  [...rows.children].forEach((row, number) => {
    const label = element("label", "ks-target");
    const radio = element("input", "", { type: "radio", name: "target", value: number, ...OWN_KEYS });
    radio.checked = number === 0;
    label.append(radio, ...row.childNodes);
    choice.append(label);
  });
  rows.replaceWith(choice);
}

// `told` makes what stands beside it, and `changed` is called when it is moved.
function makeSlider(text, value, most, told, changed) {
  const slider = element("input", "", { type: "range", min: 0, max: most, step: 1, ...OWN_KEYS });
  const shown = element("output");
  const label = element("label", "ks-opacity");
  const name = element("span", "ks-label");
  name.textContent = text;
  slider.value = String(value);
  const say = () => {
    shown.textContent = told(Number(slider.value));
    slider.setAttribute("aria-valuetext", shown.textContent);
  };
  say();
  slider.addEventListener("input", () => {
    say();
    changed(Number(slider.value));
  });
  label.append(name, slider, shown);
  return label;
}

const makeFader = (percent, view) => makeSlider(
  "Opacity", percent, 100, (value) => `${value}%`, (value) => view.limit(value / 100));

// Leads through the slices of a volume or a video, which a button plays.
function makeTurner(view) {
  const { name, numbers, count, start } = view.slices;
  const title = name[0].toUpperCase() + name.slice(1);
  const last = numbers.length - 1;
  const turner = makeSlider(
    title, start, last, (at) => `${numbers[at]} of ${count}`, (at) => view.turn(at));
  const slider = turner.querySelector("input");
  let playing;
  const stop = () => {
    clearInterval(playing);
    playing = undefined;
    button.textContent = "Play";
  };
  const next = () => {
    if (!slider.isConnected) return stop();
    slider.value = slider.valueAsNumber < last ? slider.valueAsNumber + 1 : 0;
    slider.dispatchEvent(new Event("input"));
  };
  const button = makeButton("Play", () => {
    if (playing) return stop();
    button.textContent = "Pause";
    playing = setInterval(next, 120);
  });
  slider.addEventListener("pointerdown", stop);
  slider.addEventListener("keydown", stop);
  button.classList.add("ks-play");
  return [turner, button];
}

function makeButton(text, pressed) {
  const button = element("button", "", { type: "button", ...OWN_KEYS });
  button.textContent = text;
  button.addEventListener("click", pressed);
  return button;
}

// Shows a form in a dialog, and puts it back when that is closed: what is chosen there is chosen
// here. `buttons` stand above it, and `more` in it for as long.
function enlarge(form, view, name, buttons = [], more = []) {
  const home = form.parentElement;
  const dialog = element("dialog", "ks-large", { "aria-label": name });
  const top = element("div", "ks-top");
  const place = element("div");
  const radios = [...form.querySelectorAll("[name=target]")];
  const stops = radios.map((radio) => radio.tabIndex);
  view.open();
  place.style.height = `${form.offsetHeight}px`;
  form.replaceWith(place);
  for (const radio of radios) radio.tabIndex = 0;
  top.append(...buttons, makeButton("Close", () => dialog.close()));
  form.append(...more);
  dialog.append(top, form);
  home.closest(".kerasight").append(dialog);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    radios.forEach((radio, i) => { radio.tabIndex = stops[i]; });
    for (const node of more) node.remove();
    place.replaceWith(form);
    dialog.remove();
    view.rest();
    view.stage.focus({ preventScroll: true });
  }, { once: true });
  dialog.showModal();
  view.rest();
  view.stage.focus();
  return dialog;
}

// One explanation: open() draws it, close() frees its pictures, select(number) changes the target,
// limit(value) the greatest opacity. The hint stands where the heat will; if it is empty, the place
// of the strongest. `enlarged` is called where it is to be shown large.
function makeView(form, looks, hint, enlarged) {
  const store = form.querySelector(".ks-data");
  const stage = form.querySelector(".ks-stage") ?? element("div", "ks-stage");
  const reading = element("output", "ks-reading");
  let data, image, canvas, lines, cell, mark;
  let chosen = 0;
  let at = 0;
  let place = null;
  let opacity = null;

  const target = () => data.targets[chosen];

  // Of several slices, `values` and `heat` are those of the one that is shown.
  function decoded(item) {
    if (!item.cells) return item;
    const low = item.signed ? -1 : 0;
    item.all ??= Float32Array.from(
      new Uint16Array(bytes(item.cells).buffer),
      (n) => (low + (n / 65535) * (1 - low)) * item.factor);
    if (item.at !== at) {
      const size = item.shape[0] * item.shape[1];
      const first = data.slices ? at * size : 0;
      item.values = item.all.subarray(first, first + size);
      item.heat = undefined;
      item.at = at;
    }
    return item;
  }

  // Beyond what is drawn as the hottest, heat is cut off.
  function heatOf(item, filter) {
    const { most } = item;
    item.heat ??= stretched(
      stretched(item.values.map((n) => Math.max(-most, Math.min(most, n))), item.shape[0], canvas.width, filter),
      canvas.width, canvas.height, filter);
    return item.heat;
  }

  function paint() {
    const context = canvas.getContext("2d");
    const item = decoded(target());
    image.alt = item.alt;
    if (item.outline) {
      lines.src = item.outline;
      canvas.after(lines);
    } else lines.remove();
    form.querySelector(`.ks-scale[data-kind="${item.scale}"] .ks-bar`)?.append(mark);
    if (!item.cells) {
      context.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    const low = item.signed ? -1 : 0;
    const { colours, filter } = looks(item.signed ? "signed" : "plain");
    const count = colours.length / 4;
    const most = Math.round(255 * opacity);
    const words = new Uint32Array(count);
    for (let i = 0; i < count; i++) {
      const [red, green, blue, alpha] = colours.subarray(4 * i, 4 * i + 4);
      words[i] = (red | (green << 8) | (blue << 16) | (Math.min(alpha, most) << 24)) >>> 0;
    }
    const heat = heatOf(item, filter);
    const pixels = context.createImageData(canvas.width, canvas.height);
    const out = new Uint32Array(pixels.data.buffer);
    const factor = count / (1 - low);
    for (let i = 0; i < out.length; i++) {
      out[i] = words[Math.max(0, Math.min(count - 1, Math.floor((heat[i] - low) * factor)))];
    }
    context.putImageData(pixels, 0, 0);
  }

  function hottest() {
    const { values, shape } = decoded(target());
    let best = 0;
    values.forEach((value, i) => {
      if (Math.abs(value) > Math.abs(values[best])) best = i;
    });
    return [Math.floor(best / shape[1]), best % shape[1]];
  }

  // Shows what the cell at `place` holds; null for none.
  function read(next, isSpoken) {
    if (!data) return;
    const item = decoded(target());
    place = item.cells ? next : null;
    reading.setAttribute("aria-live", isSpoken ? "polite" : "off");
    cell.hidden = mark.hidden = place === null;
    if (place === null) {
      const said = stage.closest("dialog") ? item.where : hint || item.where;
      reading.textContent = item.cells ? said : "There is no heatmap for this class.";
      return;
    }
    const [height, width] = item.shape;
    const [row, column] = place;
    const value = item.values[row * width + column];
    const sign = Math.abs(value) < 0.005 || !item.signed ? "" : value < 0 ? "\u2212" : "+";
    const strong = element("b");
    strong.textContent = sign + Math.abs(value).toFixed(2);
    const where = ` in row ${row + 1}, column ${column + 1} of ${height} \u00d7 ${width}`;
    reading.replaceChildren(strong, where);
    cell.style.cssText = `left:${(100 * column) / width}%;top:${(100 * row) / height}%;` +
      `width:${100 / width}%;height:${100 / height}%`;
    const low = item.signed ? -1 : 0;
    mark.style.left = `${Math.max(0, Math.min(100, (100 * (value - low)) / (1 - low)))}%`;
  }

  function cellAt(event) {
    const { shape } = target();
    if (!shape) return null;
    const box = stage.getBoundingClientRect();
    const within = (part, length) => Math.max(0, Math.min(length - 1, Math.floor(part * length)));
    return [
      within((event.clientY - box.top) / box.height, shape[0]),
      within((event.clientX - box.left) / box.width, shape[1]),
    ];
  }

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function onKey(event) {
    if (!data || event.altKey || event.ctrlKey || event.metaKey || !target().shape) return;
    const { shape } = target();
    const isLarge = stage.closest("dialog");
    if (event.key === "Escape" && !isLarge) read(null, true);
    else if (event.key === "Enter" && !isLarge) enlarged();
    else if (event.key === "Home") read(hottest(), true);
    else if (event.key in STEPS && place === null) read(hottest(), true);
    else if (event.key in STEPS) {
      const step = STEPS[event.key];
      read(place.map((at, i) => Math.max(0, Math.min(shape[i] - 1, at + step[i]))), true);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  const onPoint = (event) => data && read(cellAt(event), false);
  stage.addEventListener("pointermove", onPoint);
  stage.addEventListener("pointerdown", onPoint);
  stage.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") read(null, false);
  });
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("click", () => {
    if (data && !stage.closest("dialog")) enlarged();
  });
  stage.addEventListener("focus", () => {
    if (data && target().shape && stage.matches(":focus-visible")) read(hottest(), true);
  });
  stage.addEventListener("blur", () => read(null, false));
  form.addEventListener("submit", (event) => event.preventDefault());

  const view = {
    stage,
    reading,
    get opacity() { return opacity; },
    get slices() { return data.slices && data; },
    async open() {
      if (data) return;
      data = JSON.parse(store.textContent);
      opacity ??= data.opacity;
      const [width, height] = data.size;
      image = element("img", "", { width, height });
      canvas = element("canvas", "", { width, height, "aria-hidden": "true" });
      lines = element("img", "ks-lines", { alt: "" });
      cell = element("span", "ks-cell");
      mark = element("i", "ks-mark");
      cell.hidden = mark.hidden = true;
      for (const [key, value] of Object.entries({
        ...OWN_KEYS,
        tabindex: "0",
        role: "application",
        "aria-roledescription": "heatmap",
        "aria-label":
          "Heat by cell. Arrow keys move, Home goes to the strongest cell, Enter enlarges.",
      })) stage.setAttribute(key, value);
      stage.style.setProperty("--ks-aspect", String(width / height));
      at = data.start ?? 0;
      image.src = data.picture ?? data.slices[at];
      stage.replaceChildren(image, canvas, cell);
      paint();
      read(null, false);
      await image.decode();
    },
    close() {
      if (!data || stage.contains(document.activeElement) || stage.closest("dialog")) return;
      read(null, false);
      stage.replaceChildren();
      mark.remove();
      data = image = canvas = lines = cell = mark = undefined;
    },
    select(number) {
      chosen = number;
      if (!data) return;
      paint();
      read(place, false);
    },
    async turn(number) {
      at = number;
      image.src = data.slices[at];
      await image.decode().catch(() => {});  // which a next one may interrupt
      if (at !== number) return;
      paint();
      read(place, false);
    },
    rest() { read(null, false); },
    limit(value) {
      opacity = value;
      if (data) paint();
    },
  };
  form.addEventListener("change", (event) => {
    if (event.target.name === "target") view.select(Number(event.target.value));
  });
  return view;
}
