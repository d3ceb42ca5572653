"""Damaged answers that are steered by which lines of the parsers they reach. Not collected by pytest; `make fuzz` runs
`python -m nexus_assets_tests.providers.coverage_fuzzing oanda -runs=100000`, with options of libFuzzer.

A payload is one byte for the status and the body. It starts from a good answer and a refusal of the API.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["nexus_assets.providers"]):
    from nexus_assets_tests.providers.payload_mutations import APIS, complaints, outcome

STATUSES = (200, 200, 200, 400, 401, 402, 404, 422, 429, 500)


def main(arguments: list[str]) -> None:
    """Fuzz one provider; ends the process."""
    name = arguments[1]
    api = APIS[name]

    def run(data: bytes) -> None:
        status, body = STATUSES[data[0] % len(STATUSES)] if data else 200, data[1:]
        wrong = complaints(name, outcome(api, status, body))
        if wrong:
            raise AssertionError(f"{name}, status {status}: {', '.join(wrong)}")

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate((api.good, api.refusal)):
            Path(folder, str(number)).write_bytes(b"\0" + orjson.dumps(seed))
        atheris.Setup([arguments[0], *arguments[2:], f"-artifact_prefix={tempfile.gettempdir()}/{name}-", folder], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
