// A fragment starts itself: the overlays make way once the picture is there to take their place.

async function start(root) {
  if (root.dataset.ready) return;
  root.dataset.ready = "true";
  const form = root.querySelector(".ks-view");
  if (!form || !form.querySelector(".ks-data")) return;
  const stills = form.querySelector(".ks-stills");
  const dials = form.querySelector(".ks-dials");
  const title = form.querySelector(".ks-title").textContent;
  const hint = "Point to read the heat, click to enlarge.";
  const view = makeView(form, looksIn(root), hint, () => enlarge(form, view, title));
  makeChoice(form);
  stills.classList.add("ks-first");
  await view.open();
  stills.before(view.stage);
  stills.hidden = true;
  if (form.dataset.live) form.classList.replace("ks-stacked", form.dataset.live);
  if (dials.children.length) dials.prepend(makeFader(Math.round(100 * view.opacity), view));
  if (view.slices) dials.prepend(...makeTurner(view));
  dials.after(view.reading);

  const scales = [...dials.querySelectorAll(".ks-scale")];
  const kinds = JSON.parse(form.querySelector(".ks-data").textContent).targets.map(
    (item) => item.scale);
  const showScale = () => {
    const chosen = Number(form.querySelector("[name=target]:checked")?.value ?? 0);
    for (const scale of scales) scale.hidden = scale.dataset.kind !== kinds[chosen];
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
