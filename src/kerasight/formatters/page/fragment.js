// A fragment starts itself: the overlays make way once the picture is there to take their place.

async function start(root) {
  if (root.dataset.ready) return;
  root.dataset.ready = "true";
  const form = root.querySelector(".ks-view");
  if (!form || !form.querySelector(".ks-data")) return;
  const view = makeView(form, coloursIn(root), "Point at the picture to read the heat.");
  const stills = form.querySelector(".ks-stills");
  const dials = form.querySelector(".ks-dials");
  const checked = () => Number(form.querySelector("[name=target]:checked")?.value ?? 0);
  view.select(checked()); // which a browser may have kept over a reload
  await view.open();
  stills.before(view.stage);
  stills.hidden = true;

  const slider = element("input", "", {
    type: "range",
    min: "0",
    max: "100",
    step: "1",
    "data-lm-suppress-shortcuts": "true",
  });
  const shown = element("output");
  const label = element("label", "ks-opacity");
  const name = element("span", "ks-label");
  name.textContent = "Opacity";
  slider.value = String(Math.round(100 * view.opacity));
  const say = () => {
    shown.textContent = `${slider.value} %`;
    slider.setAttribute("aria-valuetext", shown.textContent);
  };
  say();
  slider.addEventListener("input", () => {
    say();
    view.limit(slider.value / 100);
  });
  label.append(name, slider, shown);
  if (dials.children.length) dials.prepend(label);
  dials.after(view.reading);

  const scales = [...dials.querySelectorAll(".ks-scale")];
  const kinds = JSON.parse(form.querySelector(".ks-data").textContent).targets.map(
    (item) => (item.signed ? "signed" : "plain"));
  const showScale = () => {
    for (const scale of scales) scale.hidden = scale.dataset.kind !== kinds[checked()];
  };
  form.addEventListener("change", showScale);
  showScale();
}

const startAll = () => {
  const here = document.currentScript?.closest(".kerasight");
  if (here) start(here);
  for (const root of document.querySelectorAll('[data-kerasight="__REVISION__"]')) start(root);
};
startAll();
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
