// Looks at pages of runs in Chromium. `node report.mjs MODULES CHROMIUM PAGES`, where PAGES is a JSON file:
// [{ "name", "path", "iterations", "hostile" }]. Prints one line for each check, and ends with 1 if one fails.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, executablePath, list] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const sections = ["overview", "funnel", "flow", "scores", "training", "evaluation", "health", "reading", "rows", "time", "lineage"];

let failed = 0;
function check(what, holds, seen = "") {
  console.log(`${holds ? "ok" : "FAILED"}: ${what}${holds ? "" : ` (${JSON.stringify(seen)})`}`);
  if (!holds) failed += 1;
}

/** Opens a page and collects everything that should not happen. */
async function open(browser, page, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const tab = await context.newPage();
  const wrong = [];
  tab.on("console", (message) => { if (["error", "warning"].includes(message.type())) wrong.push(message.text()); });
  tab.on("pageerror", (error) => wrong.push(error.message));
  tab.on("dialog", (dialog) => { wrong.push(`dialog ${dialog.message()}`); dialog.dismiss(); });
  const url = pathToFileURL(page.path).href;
  tab.on("request", (request) => { if (request.url().split("#")[0] !== url) wrong.push(`request ${request.url()}`); });
  await tab.goto(url);
  return { tab, wrong, context };
}

/** Every chart has marks, and every section has figures or says why not. */
async function shows(tab, page) {
  for (const name of sections) {
    const seen = await tab.locator(`#${name} > .body`).evaluate((body) => ({
      absent: body.children.length === 1 && body.firstElementChild.matches("p.note"), children: body.children.length,
      text: body.textContent.length,
    }));
    check(`${page.name}: section ${name} has its data`, seen.children > 1 && seen.text > 20 && !seen.absent, seen);
  }
  const empty = await tab.locator("figure.chart").evaluateAll((figures) => figures
    .filter((figure) => figure.querySelectorAll("svg path[d], svg rect, svg circle").length < 1 || !figure.querySelector("svg")?.getAttribute("aria-label"))
    .map((figure) => figure.querySelector("figcaption").textContent));
  check(`${page.name}: no chart is empty or without a label`, empty.length === 0, empty);
  const charts = await tab.locator("figure.chart").count();
  check(`${page.name}: ${charts} charts`, charts >= 20, charts);
  const columns = await tab.locator("#funnel thead th").count();
  check(`${page.name}: the funnel has every iteration`, columns === page.iterations + 1, columns);
  const words = await tab.locator("main").textContent();
  check(`${page.name}: no figure is undefined`, !/\bNaN\b|undefined|\[object/.test(words), words.match(/.{20}(\bNaN\b|undefined|\[object).{20}/)?.[0]);
}

/** Links lead to what they name, and filters change what is shown. */
async function works(tab, page) {
  const dead = await tab.locator("a[href^='#']").evaluateAll((links) => links.map((link) => link.getAttribute("href").slice(1).split("/")[0]).filter((id) => !document.getElementById(id)));
  check(`${page.name}: links lead somewhere`, dead.length === 0, dead);
  const links = await tab.locator("a[href]").evaluateAll((all) => all.map((a) => a.getAttribute("href")).filter((href) => !href.startsWith("#")));
  check(`${page.name}: no link leaves the page`, links.length === 0, links);
  const row = tab.locator("#funnel tbody tr", { has: tab.locator("th", { hasText: /^pairs/ }) });
  const number = row.locator("td a").first();
  const n = Number((await number.textContent()).replaceAll(",", ""));
  await number.click();
  await tab.waitForFunction(() => location.hash.startsWith("#rows/pairs/1"));
  const rows = await tab.locator("#rows tbody tr").count();
  check(`${page.name}: a number of the funnel leads to its rows`, rows >= 1 && rows <= n, { rows, n });
  const left = tab.locator("#funnel .reasons a").first();
  await left.click();
  await tab.waitForFunction(() => location.hash.endsWith("/left-out"));
  check(`${page.name}: a reason leads to rows that were left out`, (await tab.locator("#rows thead").textContent()).includes("code"));
  const before = await tab.locator("#reading .prompt").count();
  await tab.getByLabel("Search").fill("no prompt has these words");
  check(`${page.name}: the search finds nothing`, (await tab.locator("#reading .prompt").count()) === 0);
  await tab.getByLabel("Search").fill("");
  check(`${page.name}: and everything again`, (await tab.locator("#reading .prompt").count()) === before, before);
  await tab.locator("#reading").getByLabel("Iteration").selectOption("1");
  const others = await tab.locator("#reading .prompt > summary .muted").evaluateAll((all) => all.filter((s) => !s.textContent.includes("iteration 1")).length);
  check(`${page.name}: the reading room shows one iteration`, others === 0, others);
  const drawn = await tab.locator("#flow svg a").first().getAttribute("aria-label");
  check(`${page.name}: the dataflow names its steps`, /rows?|models?/.test(drawn), drawn);
  const flow = () => tab.locator("#flow svg").textContent();
  const whole = await flow();
  await tab.locator("#flow").getByLabel("Show").selectOption("1");
  check(`${page.name}: the dataflow shows one iteration`, (await flow()) !== whole);
}

async function keyboard(browser, page) {
  const { tab, context } = await open(browser, page);
  await tab.keyboard.press("Tab");
  check(`${page.name}: the first stop skips the navigation`, await tab.evaluate(() => document.activeElement.classList.contains("skip")));
  await tab.keyboard.press("Enter");
  const summary = tab.locator("#reading .prompt > summary").nth(1);
  await summary.focus();
  await tab.keyboard.press("Enter");
  check(`${page.name}: a prompt opens by keyboard`, await summary.evaluate((node) => node.parentElement.open));
  await tab.locator("#flow svg a").last().focus();
  await tab.keyboard.press("Enter");
  await tab.waitForFunction(() => location.hash.startsWith("#rows/"));
  check(`${page.name}: a step of the drawing leads to its rows by keyboard`, true);
  await context.close();
}

/** What texts of models tried did not happen, and they can be read as they are. */
async function harmless(tab, page) {
  const state = await tab.evaluate(() => ({ pwned: window.pwned, images: document.images.length, frames: frames.length, scripts: document.scripts.length, forms: document.forms.length }));
  check(`${page.name}: no text of a model ran or made an element`, state.pwned === undefined && !state.images && !state.frames && state.scripts === 2 && !state.forms, state);
  const words = await tab.locator("#reading, #rows").evaluateAll((all) => all.map((node) => node.textContent).join("\n"));
  for (const text of ["<script>window.pwned=1</script>", "onerror=", "javascript:", "{{ 7 * 7 }}", "\\u{202e}"]) {
    check(`${page.name}: ${JSON.stringify(text)} is shown as text`, words.includes(text));
  }
  check(`${page.name}: no mark of writing direction is left`, !/[\u202a-\u202e\u2066-\u2069]/.test(words));
  await tab.evaluate(() => {
    const script = document.createElement("script");
    try { script.textContent = "window.pwned = 2"; document.body.append(script); } catch { /* refused, as it should be */ }
    try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.pwned = 3'>"); } catch { /* likewise */ }
  });
  check(`${page.name}: the policy lets no other script run`, (await tab.evaluate(() => window.pwned)) === undefined);
}

async function accessible(browser, page, scheme) {
  const { tab, context } = await open(browser, page, { colorScheme: scheme, bypassCSP: true });
  await tab.evaluate(axe);
  const { violations } = await tab.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter((v) => ["serious", "critical"].includes(v.impact)).map((v) => `${v.id}: ${v.nodes.length}, ${v.nodes[0].html.slice(0, 200)}`);
  check(`${page.name}: axe finds nothing serious (${scheme})`, serious.length === 0, serious);
  await context.close();
}

const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args: flags });
for (const page of JSON.parse(readFileSync(list, "utf8"))) {
  const { tab, wrong, context } = await open(browser, page);
  await shows(tab, page);
  await works(tab, page);
  await keyboard(browser, page);
  check(`${page.name}: nothing went wrong and nothing was loaded`, wrong.length === 0, wrong);
  if (page.hostile) await harmless(tab, page);
  await tab.setViewportSize({ width: 400, height: 800 });
  const width = await tab.evaluate(() => document.documentElement.scrollWidth);
  check(`${page.name}: fits a window of 400 pixels`, width <= 400, width);
  await context.close();
  for (const scheme of ["light", "dark"]) await accessible(browser, page, scheme);
}
await browser.close();
process.exit(failed ? 1 : 0);
