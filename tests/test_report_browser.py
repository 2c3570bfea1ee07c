"""The report in a real browser: nothing in its console, nothing too wide, nothing too pale, in light and in dark."""

import shutil

import pytest
from run_folders import write_chapter, write_plan, write_run

from pipeline.reporting import report

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Text that a person can see, its colour against the first background below it (WCAG 2.2, relative luminance).
CONTRASTS = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m }
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b) }
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.5) return c } return [255, 255, 255, 1] }
  const found = []
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join(' ').trim()
    if (!own || !e.getClientRects().length) continue
    const style = getComputedStyle(e), box = e.ownerSVGElement && e.parentNode.querySelector('rect')
    const ground = box && getComputedStyle(box).fill !== 'none' ? parse(getComputedStyle(box).fill) : behind(e)
    const a = light(parse(e.ownerSVGElement ? style.fill : style.color)), b = light(ground)
    found.push([own.slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)])
  }
  return found }"""
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, .skip, svg')
  && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        # Debian's chromium asks for a GPU, and root may not use its sandbox.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, tokenizer_dir):
    """The report of a run with other seeds, chapters of both kinds of pictures, a tokenizer and a stage that skips others."""
    folder = tmp_path_factory.mktemp("runs")
    run = write_run(folder / "tiny")
    write_run(folder / "tiny-2", 2)
    write_plan(run)
    write_chapter(run)
    bars = {"name": "answers_of_a_model_with_a_long_name", "x": ["sft", "a_control_with_a_long_name"], "y": [0.2, 0.9]}
    write_chapter(run, "limits", series=[bars, {**bars, "name": "other", "y": [0.5, 0.4]}], title="Unbreakable" * 9)
    shutil.copy(tokenizer_dir / "tokenizer.json", run / "tokenizer" / "tokenizer.json")
    return report(run, price_per_hour=0.5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_fits_and_can_be_read(browser, page_file, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == [] and asked == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 150 and [one for one in contrasts if one[1] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(int(part) for part in background[4:-1].split(",")) > 200) == (scheme == "light")
    context.close()


def test_links_lead_to_sections_and_pictures_have_their_colours(browser, page_file):
    page = browser.new_page(reduced_motion="reduce")
    page.goto(page_file.as_uri())
    for link in page.query_selector_all("nav a"):
        link.click()
        assert page.evaluate("document.querySelector(location.hash).getBoundingClientRect().top") < 800
    colours = page.evaluate("[1, 2, 3].map(i => getComputedStyle(document.body).getPropertyValue(`--series-${i}`))")
    drawn = page.evaluate(
        "[...new Set([...document.querySelectorAll('#curves svg path')].map(e => getComputedStyle(e).stroke))].length"
    )
    assert len(set(colours)) == 3 and drawn >= 4
    page.close()
