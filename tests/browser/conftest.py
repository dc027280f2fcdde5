"""Debian's chromium, driven by Playwright, and a JupyterLab of our own; nothing else is visited.

``KERASIGHT_CHROMIUM`` names another chromium. ``KERASIGHT_SCREENSHOTS`` names a folder for the
pictures of the documentation, which the tests take while they are there.
"""

from __future__ import annotations

import importlib.util
import io
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

# Where the browser's dependencies are not installed there is nothing to drive it with;
# `tox -e browser` installs them.
collect_ignore_glob = [] if importlib.util.find_spec("playwright") else ["test_*.py"]

CHROMIUM = Path(os.environ.get("KERASIGHT_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--force-color-profile=srgb",
]
# Machines that run tests may be slow and busy.
PATIENCE = 60_000
# Of a picture for the documentation.
MOST_BYTES = 300_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser, without a window."""
    from playwright.sync_api import expect, sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(
            f"there is no {CHROMIUM}: install it (`apt-get install chromium`), or name another "
            "one in KERASIGHT_CHROMIUM"
        )
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file in a window of its own, in which nothing may go wrong or be fetched.

    Arguments but the first are those of Playwright's ``new_context``.
    """
    contexts = []
    troubles: list[str] = []

    def heard(message: Any) -> None:
        if message.type in {"error", "warning"}:
            troubles.append(f"console: {message.text}")

    def requested(request: Any) -> None:
        if not request.url.startswith(("data:", "file:")):
            troubles.append(f"request: {request.url}")

    def open_file(path: Path, **options: Any) -> Page:
        size = {"width": 1000, "height": 700}
        context = chromium.new_context(**{"viewport": size, "device_scale_factor": 1.5, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("request", requested)
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not troubles


_CONTRAST = """(root) => {
  const canvas = document.createElement('canvas');
  const context = canvas.getContext('2d', { willReadFrequently: true });
  // Any colour as numbers, laid over what is below it.
  const numbers = (colour, below) => {
    context.fillStyle = below ? `rgb(${below})` : '#fff';
    context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const ground = (node) => node ? numbers(getComputedStyle(node).backgroundColor,
                                          ground(node.parentElement)) : null;
  const light = (colour) => colour.map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const node of root.querySelectorAll('*')) {
    const words = [...node.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    if (!words.length || !node.checkVisibility() || node.closest('script, style')) continue;
    const below = ground(node);
    const [a, b] = [light(numbers(getComputedStyle(node).color, below)), light(below)];
    found.push([node.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""


@pytest.fixture(scope="session")
def faint_words() -> Callable[..., list[str]]:
    """Finds the words below an element whose contrast is less than WCAG asks for, 4.5 to 1."""

    def found(root: Locator, at_least: int) -> list[str]:
        contrasts = root.evaluate(_CONTRAST)
        assert len(contrasts) >= at_least  # or it looked in the wrong place
        return [text for text, contrast in contrasts if contrast < 4.5]

    return found


@pytest.fixture(scope="session")
def take() -> Callable[..., None]:
    """Saves a picture for the documentation, if somebody wants it, in less than 300 kB.

    Arguments but the first two are those of Playwright's ``screenshot``.
    """
    folder = os.environ.get("KERASIGHT_SCREENSHOTS")

    def save(what: Page | Locator, name: str, **options: Any) -> None:
        if not folder:
            return
        data = what.screenshot(animations="disabled", caret="hide", **options)
        path = Path(folder) / f"{name}.png"
        with Image.open(io.BytesIO(data)) as image:
            whole = image.convert("RGB")
        whole.save(path, optimize=True)
        percent = 100
        while path.stat().st_size > MOST_BYTES:
            percent -= 5
            size = (whole.width * percent // 100, whole.height * percent // 100)
            whole.resize(size, Image.Resampling.LANCZOS).save(path, optimize=True)

    return save


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A JupyterLab with a home of its own; puts a notebook there and returns its address."""
    home = tmp_path_factory.mktemp("home")
    served = tmp_path_factory.mktemp("notebooks")
    config = home / "config"
    settings = config / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    # It would ask its project's site for news.
    settings.write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    log = home / "jupyterlab.log"
    with open(log, "w", encoding="utf-8") as out:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={served}",
                f"--IdentityProvider.token={token}",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "HOME": str(home),
                "IPYTHONDIR": str(home / "ipython"),
                "JUPYTER_CONFIG_DIR": str(config),
                "JUPYTER_DATA_DIR": str(home / "data"),
                "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
                "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
                "KERAS_BACKEND": "tensorflow",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api?token={token}", server, log)

        def put(name: str, notebook: str) -> str:
            (served / name).write_text(notebook, encoding="utf-8")
            return f"{address}/doc/tree/{name}?token={token}&reset"

        yield put
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; fails with what it wrote if it does not."""
    end = time.monotonic() + 2 * PATIENCE / 1000
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text(encoding='utf-8')[-4000:]}")
