// Draws the charts. Vega interprets its expressions (ast), so the page needs no eval.
const charts = JSON.parse(document.getElementById("charts").textContent);
const config = {
  background: null,
  view: { stroke: null },
  axis: {
    labelColor: "currentColor", titleColor: "currentColor", labelLimit: 320,
    domainColor: "#8888", tickColor: "#8888", gridColor: "#8883",
  },
  axisY: { title: null },
  legend: { labelColor: "currentColor", titleColor: "currentColor", labelLimit: 320 },
  rule: { color: "currentColor" },
};
for (const [key, spec] of Object.entries(charts)) {
  vegaEmbed(document.getElementById("chart-" + key), spec, {
    actions: false, ast: true, config, defaultStyle: false, renderer: "svg",
    tooltip: { disableDefaultStyle: true },
  }).catch((error) => {
    document.getElementById("chart-" + key).textContent = "No chart: " + error.message;
  });
}
