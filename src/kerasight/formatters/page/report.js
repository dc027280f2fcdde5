// A report: cards are searched, sorted and filtered, and drawn while they are in view.

function startReport() {
  const report = document.querySelector(".ks-report");
  const tools = report.querySelector(".ks-tools");
  const field = (name) => tools.elements.namedItem(name);
  const list = report.querySelector(".ks-cards");
  const count = report.querySelector(".ks-count");
  const looks = looksIn(report);
  const none = element("p", "ks-none");
  none.textContent = "Nothing matches.";
  none.hidden = true;

  const cards = [...report.querySelectorAll(".ks-card")].map((node, number) => {
    const form = node.querySelector(".ks-view");
    const labels = JSON.parse(node.dataset.labels);
    const card = {
      node, number, labels,
      scores: JSON.parse(node.dataset.scores),
      name: node.querySelector("h2").textContent,
      isPercent: "percent" in node.dataset,
      hasFailed: Boolean(node.querySelector(".ks-error")),
      considered: 0,
    };
    card.view = node.querySelector(".ks-data")
      ? makeView(form, looks, "", () => showLarge(card)) : null;
    card.text = [card.name, ...labels, node.querySelector(".ks-error")?.textContent ?? ""]
      .join("\n").toLowerCase();
    if (card.view) {
      makeChoice(form);
      form.append(card.view.reading);
      // One stop of the Tab key for each card: the picture, and when it is large, the classes too.
      for (const radio of form.querySelectorAll("[name=target]")) radio.tabIndex = -1;
    }
    return card;
  });

  const inOrder = new Intl.Collator(undefined, { numeric: true }).compare;
  const total = new Map();
  for (const { labels } of cards) {
    for (const label of labels) total.set(label, (total.get(label) ?? 0) + 1);
  }
  for (const label of [...total.keys()].sort(inOrder)) {
    field("class").append(new Option(`${label} \u00b7 ${total.get(label)}`, label));
  }

  const failed = cards.filter((card) => card.hasFailed).length;
  if (failed) {
    field("state").append(
      new Option(`Explained \u00b7 ${cards.length - failed}`, "explained"),
      new Option(`Failed \u00b7 ${failed}`, "failed"),
    );
    field("state").parentElement.hidden = false;
  }

  const scored = cards.filter((card) => card.scores.some((score) => score !== null));
  const unit = scored.length && scored.every((card) => card.isPercent) ? 100 : 1;
  if (unit === 100) {
    for (const name of ["least", "greatest"]) {
      field(name).previousElementSibling.append(", %");
      field(name).min = 0;
      field(name).max = 100;
    }
  }

  // Those without a score come last, whichever way the others go.
  const byScore = (sign) => (a, b) => {
    const [x, y] = [a, b].map((card) => card.scores[card.considered] ?? null);
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  };
  const ORDERS = {
    given: () => 0,
    name: (a, b) => inOrder(a.name, b.name),
    class: (a, b) => inOrder(...[a, b].map((card) => card.labels[card.considered] ?? "\uffff")),
    falling: byScore(-1),
    rising: byScore(1),
  };

  const numberIn = (name, otherwise) => {
    const value = field(name).valueAsNumber;
    return Number.isNaN(value) ? otherwise : value / unit;
  };

  let order = "given ";
  let chosen = "";
  function update() {
    const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = field("class").value;
    const least = numberIn("least", -Infinity);
    const greatest = numberIn("greatest", Infinity);
    const state = field("state").value;
    const anyScore = least === -Infinity && greatest === Infinity;
    let shown = 0;
    for (const card of cards) {
      const place = wanted ? card.labels.indexOf(wanted) : 0;
      const score = card.scores[place] ?? null;
      const fits = place >= 0 && (!state || (state === "failed") === card.hasFailed) &&
        words.every((word) => card.text.includes(word)) &&
        (anyScore || (score !== null && score >= least && score <= greatest));
      card.considered = Math.max(0, place);
      card.node.hidden = !fits;
      shown += fits;
      if (wanted !== chosen) choose(card, card.considered);
    }
    chosen = wanted;
    const next = `${field("order").value} ${wanted}`;
    if (next !== order) {
      order = next;
      const compare = ORDERS[field("order").value];
      const sorted = [...cards].sort((a, b) => compare(a, b) || a.number - b.number);
      list.append(...sorted.map((card) => card.node));
    }
    none.hidden = shown > 0;
    const all = cards.length;
    count.textContent = shown === all ? `All ${all} shown` : `${shown} of ${all} shown`;
  }

  function choose(card, place) {
    const radio = card.node.querySelector(`[name=target][value="${place}"]`);
    if (!radio || radio.checked) return;
    radio.checked = true;
    card.view?.select(place);
  }

  // In the order and of the choice that is on the page; `pressed` is the button that led here.
  function showLarge(card, pressed) {
    const shown = [...list.children]
      .map((node) => cards.find((one) => one.node === node))
      .filter((one) => one?.view && !one.node.hidden);
    const at = shown.indexOf(card);
    const steps = { Previous: shown[at - 1], Next: shown[at + 1] };
    const go = (name) => {
      if (!steps[name]) return;
      dialog.close();
      showLarge(steps[name], name);
    };
    const buttons = Object.keys(steps).map((name) => makeButton(name, () => go(name)));
    buttons.forEach((button) => { button.disabled = !steps[button.textContent]; });
    const dials = element("div", "ks-dials");
    dials.append(makeFader(field("opacity").value, {
      limit(value) {
        field("opacity").value = Math.round(100 * value);
        fade();
      },
    }));
    const dialog = enlarge(card.node.querySelector(".ks-view"), card.view, card.name, buttons, [dials]);
    buttons.find((button) => button.textContent === pressed && !button.disabled)?.focus();
    dialog.addEventListener("keydown", (event) => {
      const name = { PageUp: "Previous", PageDown: "Next" }[event.key];
      if (!name) return;
      event.preventDefault();
      go(name);
    });
  }

  const opacity = () => field("opacity").value / 100;
  function fade() {
    field("opacity").setAttribute("aria-valuetext", `${field("opacity").value}%`);
    for (const card of cards) card.view?.limit(opacity());
  }

  let waiting;
  tools.addEventListener("input", (event) => {
    if (event.target === field("opacity")) return fade();
    clearTimeout(waiting);
    waiting = setTimeout(update, event.target.type === "search" ? 120 : 0);
  });
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(() => {
    update();
    for (const card of cards) choose(card, 0);
    fade();
  }));

  const drawn = cards.filter((card) => card.view);
  const views = new Map(drawn.map(({ view }) => [view.stage, view]));
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const view = views.get(target);
      if (isIntersecting) view.open();
      else view.close();
    }
  }, { rootMargin: "600px 0px" });

  const hint = element("span", "ks-label");
  hint.textContent = "Point at a picture to read its heat, click to enlarge.";
  list.querySelector(".ks-scale:has(img)")?.append(hint);
  list.append(none);
  field("opacity").parentElement.hidden = !drawn.length;
  tools.hidden = false;
  update();
  fade();
  for (const stage of views.keys()) watcher.observe(stage);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startReport);
else startReport();
