#!/usr/bin/env python3
"""Walks every page of the sync service in Debian's Chromium (headless), as a user, a guest with a link and
the administrator, at desktop and phone width, and the settings page of a device; a user's and the
administrator's work once by keyboard alone, and a user's once without scripts. axe is asked about each page,
in light and in dark.

    pip install playwright axe-playwright-python; apt-get install chromium
    tests/programs/browser.py PVFS2 OUT [ROOT]    (the pvfs2 program; a folder for the screenshots; a
                                                  folder for the service's root, else a scratch one)

Ends with 0 if every page that the server has (by its source) was seen, none is wider than the window, none
writes an error to the console, and axe found nothing serious. browser.sh runs it in CI.
"""
import base64
import hmac
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlparse

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

BIN, OUT = sys.argv[1], pathlib.Path(sys.argv[2])
OUT.mkdir(parents=True, exist_ok=True)
WIDTHS = {"desktop": (1200, 800), "phone": (390, 844)}
PASSWORD = "correct horse battery"
PDF = (b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
       b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n")
problems, seen = [], set()


def watch(context):
    """Notes what is asked for, and what a page complains about."""
    context.on("response", lambda r: seen.add(urlparse(r.url).path))
    context.on("weberror", lambda e: problems.append(f"script: {e.error}"))

    def said(m):
        # A page that is refused on purpose is told there, and that no service worker comes by a certificate
        # that nobody trusts.
        expected = "Failed to load resource" in m.text or "when fetching the script" in m.text
        if m.type == "error" and not expected:
            problems.append(f"console at {m.page and m.page.url}: {m.text}")
    context.on("console", said)
    return context


def pages():
    """The pages that the server has, by its source: each route that is fetched."""
    source = (pathlib.Path(__file__).parents[2] / "sync/src/server/http.rs").read_text()
    source = source[source.index('.route("/", get('):]
    return [m[1] for m in re.finditer(r'\.route\(\s*"([^"]+)",\s*get\(', source)]


def start(root):
    server = subprocess.Popen(
        [BIN, "sync", "serve", "--root", root, "--init", "--listen", "127.0.0.1:0", "--signup"],
        stdout=subprocess.PIPE, text=True)
    url = server.stdout.readline().split()[-1]
    password = re.search(r"password (\S+)", server.stdout.readline()).group(1)
    return server, url, password


class Walk:
    def __init__(self, context, width, who):
        self.page, self.width, self.who = context.new_page(), width, who

    @classmethod
    def of(cls, page, width, who):
        walk = cls.__new__(cls)
        walk.page, walk.width, walk.who = page, width, who
        return walk

    def axe(self, name):
        for v in Axe().run(self.page).response["violations"]:
            if v["impact"] in ("serious", "critical"):
                problems.append(f"{self.width} {name}: axe {v['id']}: {v['nodes'][0]['html'][:120]}")

    def look(self, name, full=True):
        page = self.page
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if wide > 0:
            problems.append(f"{self.width} {name}: {wide} px wider than the window")
        self.axe(name)
        page.screenshot(path=OUT / f"{self.width}-{self.who}-{name}.png", full_page=full)

    def go(self, url, name):
        answer = self.page.goto(url)
        if answer.status >= 400:
            problems.append(f"{self.width} {name}: {answer.status}")
        self.look(name)

    def sign_in(self, url, name, password=PASSWORD):
        p = self.page
        p.goto(f"{url}/login")
        p.fill("#user", name)
        p.fill("#password", password)
        p.click("button:has-text('Sign in')")
        p.wait_for_url("**/files/1")

    def fetch(self, selector):
        """Follows a link that downloads."""
        with self.page.expect_download() as got:
            self.page.click(selector)
        seen.add(urlparse(got.value.url).path)
        return pathlib.Path(got.value.path()).read_bytes()


def picture(page, path):
    """A picture to upload, drawn by the browser itself."""
    data = page.evaluate("""() => { const c = document.createElement('canvas'); c.width = 640; c.height = 420;
        const g = c.getContext('2d'); const s = g.createLinearGradient(0, 0, 0, 420);
        s.addColorStop(0, '#7db8f5'); s.addColorStop(1, '#fff6d6'); g.fillStyle = s; g.fillRect(0, 0, 640, 420);
        g.fillStyle = '#f4b942'; g.beginPath(); g.arc(470, 130, 46, 0, 7); g.fill();
        g.fillStyle = '#37618e'; g.beginPath(); g.moveTo(0, 420); g.lineTo(220, 170); g.lineTo(360, 330);
        g.lineTo(480, 230); g.lineTo(640, 420); g.fill(); return c.toDataURL('image/png').split(',')[1]; }""")
    path.write_bytes(base64.b64decode(data))


def code_of(key, at):
    """The code of a key (RFC 6238)."""
    mac = hmac.new(base64.b32decode(key + "=" * (-len(key) % 8)), struct.pack(">Q", int(at) // 30), "sha1").digest()
    at = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[at:at + 4])[0] & 0x7fffffff) % 10**6:06}"


def two_steps(w, url, name):
    """Turns two-step sign-in on, signs in with a recovery code and turns it off."""
    p = w.page
    w.go(f"{url}/account/two-step", "two-step")
    p.click("text=Set it up")
    p.wait_for_selector(".qr svg")
    w.look("two-step-key")
    p.fill("#code", code_of(p.text_content("strong.hash"), time.time()))
    p.click("text=Turn it on")
    recovery = p.text_content(".codes li")
    w.look("two-step-codes")
    p.click("nav button")
    p.wait_for_url("**/login")
    p.fill("#user", name)
    p.fill("#password", PASSWORD)
    p.click("button:has-text('Sign in')")
    p.wait_for_selector("#code")
    w.look("code")
    p.fill("#code", recovery)
    p.click("button:has-text('Sign in')")
    p.wait_for_url("**/files/1")
    w.go(f"{url}/account/two-step", "two-step-on")
    p.fill("#p2", PASSWORD)
    p.click("text=Turn it off")
    p.wait_for_selector("text=It is off")


def user(context, url, width, files):
    w = Walk(context, width, "user")
    p = w.page
    w.go(f"{url}/signup", "signup")
    # By keyboard alone.
    for text in (f"ann-{width}", PASSWORD):
        while p.evaluate("document.activeElement.tagName") != "INPUT" or p.evaluate("document.activeElement.value"):
            p.keyboard.press("Tab")
        p.keyboard.type(text)
    p.keyboard.press("Enter")
    p.wait_for_url("**/files/1")
    w.look("empty")
    p.goto(url)
    p.wait_for_url("**/files/1")
    for name in ("Photos", "Documents", "A folder with quite a long name that goes on and on"):
        p.fill("input[name=name]", name)
        p.click("text=Make")
    p.click("text=Documents/")
    p.fill("input[name=name]", "notes")
    p.click("text=Make")
    picture(p, files[-1])
    p.set_input_files("input[type=file]", files)
    p.click("button:has-text('Upload')")
    p.wait_for_selector("text=report.txt")
    p.wait_for_function("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    files[0].write_text("second version, longer\n" * 200)
    p.set_input_files("input[type=file]", [files[0]])
    p.click("button:has-text('Upload')")
    w.look("files")
    here = p.url
    for name in (files[0].name, files[-1].name, files[2].name):
        p.click(f"[aria-label='View {name}']")
        p.wait_for_function("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        w.look("view-" + name.rsplit(".")[-1])
        if name.endswith(".pdf") and context.request.get(url + p.get_attribute("text=Open in the", "href")).body() != PDF:
            problems.append("the PDF is another one")
        p.goto(here)
    seen.add(f"/pdf/{p.locator('a[aria-label*=pdf]').first.get_attribute('href').split('/')[-1]}")
    if not w.fetch("text=Download all as a zip").startswith(b"PK"):
        problems.append("the zip is none")
    if w.fetch(f"a:text-is('{files[1].name}')") != files[1].read_bytes():
        problems.append("what was downloaded is another file")
    p.click(f"[aria-label='Details of {files[0].name}']")
    w.look("details")
    if w.fetch("td a:has-text('Download')") != b"first version\n" * 50:
        problems.append("the old version is another one")
    p.click("button:has-text('Restore')")
    p.fill("#name", "report 2.txt")
    p.click("button:has-text('Rename')")
    p.wait_for_selector("text=report 2.txt")
    p.goto(f"{url}/files/1")
    p.click("[aria-label='Details of Documents']")
    w.look("folder")
    p.fill("#link-password", "open sesame")
    p.click("text=Make a link")
    link = p.get_attribute("a.hash", "href")
    w.look("link")
    p.goto(here)
    p.click(f"[aria-label='Details of {files[1].name}']")
    p.click("button.danger")
    w.go(f"{url}/trash", "trash")
    p.click("button:has-text('Restore')")
    p.goto(here)
    p.click(f"[aria-label='Details of {files[1].name}']")
    p.click("button.danger")
    w.go(f"{url}/conflicts", "conflicts")
    w.go(f"{url}/activity", "activity")
    w.go(f"{url}/account", "account")
    p.fill("#app", "rclone on the laptop")
    p.click("text=Make an app password")
    w.look("app-password")
    p.goto(f"{url}/files/99")
    w.look("error")
    if p.goto(f"{url}/admin").status != 404:
        problems.append("a user sees the management")
    w.look("not-for-users")
    two_steps(w, url, f"ann-{width}")
    return link


def guest(context, link, width):
    w = Walk(context, width, "guest")
    w.go(link, "link-password")
    w.page.fill("#password", "open sesame")
    w.page.click("text=Open")
    w.page.wait_for_selector("table")
    w.look("link")
    w.fetch("text=report 2.txt")
    w.fetch("text=Download all as a zip")
    w.page.click("text=notes/")
    w.look("below")
    w.page.click("text=Up")
    w.page.wait_for_selector("text=report 2.txt")
    w.page.goto(link[:-4] + "0000")
    w.look("no-link")


def ended(page, url):
    """Waits for the long work to end, and for its end to be a good one."""
    while True:
        page.goto(f"{url}/admin/live")
        text = page.content()
        if "under way</td>" not in text:
            if 'class="bad"' in text:
                problems.append("long work failed: " + page.text_content("strong.bad"))
            return


def shell(context, url):
    """The pages install as an app, and show that they are offline when they are."""
    p = context.new_page()
    p.goto(f"{url}/login")
    try:
        p.evaluate("navigator.serviceWorker.ready.then(() => 1)")
    except Exception as e:
        problems.append(f"service worker: {e}")
        return
    tools = context.new_cdp_session(p)
    errors = tools.send("Page.getAppManifest")["errors"] + tools.send("Page.getInstallabilityErrors")["installabilityErrors"]
    if errors := [e for e in errors if e.get("errorId") != "in-incognito"]:
        problems.append(f"not to be installed as an app: {errors}")
    for path in ("/manifest.webmanifest", "/icon-512.png", "/healthz", "/metrics"):
        if context.request.get(url + path).status == 200:
            seen.add(path)
    p.goto(f"{url}/login")
    context.set_offline(True)
    p.goto(f"{url}/files/1")
    if "Offline" not in p.title():
        problems.append(f"offline: {p.title()}")
    Walk.of(p, "desktop", "user").look("offline")
    kept = p.evaluate("caches.keys().then((k) => Promise.all(k.map((n) => caches.open(n).then((c) => c.keys()))))"
                      ".then((all) => all.flat().map((r) => new URL(r.url).pathname))")
    if sorted(kept) != ["/icon-192.png", "/icon.svg", "/offline", "/style.css"]:
        problems.append(f"the service worker keeps {kept}")
    context.set_offline(False)


def admin(context, url, width, password, disk):
    w = Walk(context, width, "admin")
    p = w.page
    w.go(f"{url}/login", "login")
    p.fill("#user", "admin")
    p.fill("#password", "not the password")
    p.click("button:has-text('Sign in')")
    p.wait_for_selector("[role=alert]")
    w.look("refused")
    w.sign_in(url, "admin", password)
    w.go(f"{url}/admin", "users")
    p.fill("#user", f"bob-{width}")
    p.fill("#password", "short")
    p.click("button:has-text('Make user')")
    p.wait_for_selector("[role=alert]")
    w.look("short-password")
    w.go(f"{url}/admin/routes", "no-route")
    p.fill("#name", f"disk-{width}")
    p.fill("#path", str(disk))
    p.click("text=Add the route")
    p.click(f"button:has-text('Move ann-{width}')")
    ended(p, url)
    w.go(f"{url}/admin/routes", "storage")
    p.goto(f"{url}/admin/backups")
    p.click("text=Make a backup")
    ended(p, url)
    w.go(f"{url}/admin/backups", "backups")
    p.click("button:has-text('Check') >> nth=0")
    ended(p, url)
    p.goto(f"{url}/admin/backups")
    p.check("input[name=sure] >> nth=0")
    p.click("button:has-text('Load') >> nth=0")
    ended(p, url)
    p.goto(f"{url}/admin/ports")
    p.fill("#address", "127.0.0.1:0")
    p.click("text=Open it too")
    w.look("ports")
    p.click("button:has-text('Close') >> nth=1")
    w.go(f"{url}/admin/audit", "audit")
    w.go(f"{url}/admin/live", "now")


def to(p, selector):
    """Presses Tab until the focus is there; it must be seen."""
    for _ in range(200):
        p.keyboard.press("Tab")
        if p.evaluate("(s) => document.activeElement.matches(s)", selector):
            if p.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "none":
                problems.append(f"by keyboard: the focus on {selector} is not seen")
            return
    raise RuntimeError(f"no way by keyboard to {selector} on {p.url}")


def enter(p, selector, text=None):
    to(p, selector)
    if text is None:
        with p.expect_navigation():
            p.keyboard.press("Enter")
    else:
        p.keyboard.press("Control+A")
        p.keyboard.type(text)


def sign_in(p, user, password):
    enter(p, "#user", user)
    enter(p, "#password", password)
    enter(p, "main button")


def by_keyboard(fresh, url, password):
    """A user's and the administrator's work without a mouse."""
    p = fresh().new_page()
    p.goto(f"{url}/login")
    sign_in(p, "ann-desktop", PASSWORD)
    p.wait_for_url("**/files/1")
    enter(p, "#name", "By keyboard")
    enter(p, "form[action$=mkdir] button")
    p.wait_for_selector("text=By keyboard/")
    enter(p, "[aria-label='Details of By keyboard']")
    enter(p, "#name", "By keys")
    enter(p, "form[action$=rename] button")
    p.wait_for_selector("text=By keys/")
    enter(p, "[aria-label='Details of By keys']")
    enter(p, "button.danger")
    p.wait_for_url("**/files/1")
    enter(p, "nav a[href='/trash']")
    p.wait_for_selector("td:has-text('old draft')")
    enter(p, "main form[action$=restore] button")
    enter(p, "nav a[href='/account']")
    enter(p, "nav form button")
    p.wait_for_url("**/login")
    sign_in(p, "admin", password)
    p.wait_for_url("**/files/1")
    enter(p, "nav a[href='/admin']")
    p.wait_for_url("**/admin")
    enter(p, "#user", "carl")
    enter(p, "#password", PASSWORD)
    enter(p, "form[action='/admin/users'] button")
    p.wait_for_selector("td:has-text('carl')")
    enter(p, "nav a[href='/admin/backups']")
    enter(p, "form[action='/admin/backups'] button")
    ended(p, url)


def without_scripts(context, url, files):
    p = context.new_page()
    w = Walk.of(p, "phone", "user")
    w.sign_in(url, "ann-phone")
    p.set_input_files("input[type=file]", files[:1])
    p.click("button:has-text('Upload')")
    if w.fetch(f"a:text-is('{files[0].name}')") != files[0].read_bytes():
        problems.append("without scripts another file came back")


def in_the_dark(context, url, password):
    w = Walk(context, "dark", "all")
    w.sign_in(url, "ann-desktop")
    own = ["/files/1", "/shares", "/trash", "/conflicts", "/activity", "/account", "/account/two-step", "/files/99"]
    for path in own:
        w.page.goto(url + path)
        w.axe(path)
    w.page.goto(f"{url}/files/1")
    w.page.click("nav button")
    w.page.wait_for_url("**/login")
    w.sign_in(url, "admin", password)
    for path in ("/admin", "/admin/routes", "/admin/ports", "/admin/backups", "/admin/audit", "/admin/live"):
        w.page.goto(url + path)
        w.axe(path)


def device(fresh, url, cert, tmp):
    """The settings page that a device's daemon serves to its own machine."""
    state, folder = tmp / "state", tmp / "folder"
    subprocess.run([BIN, "sync", "setup", "--state", state, "--server", url, "--ca", cert, "--user", "ann-desktop",
                    "--device", "laptop", "--folder", folder], input=PASSWORD + "\n", text=True, check=True,
                   stdout=subprocess.DEVNULL)
    (folder / "link").symlink_to("/etc/passwd")
    daemon = subprocess.Popen([BIN, "sync", "daemon", "--state", state], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if (folder / "Documents").exists() and (state / "page.json").exists():
                break
            time.sleep(0.1)
        address = json.loads((state / "page.json").read_text())["url"]
        for width in WIDTHS:
            w = Walk(fresh(width), width, "device")
            p = w.page
            w.go(address, "settings")
            p.wait_for_function("document.querySelector('li') || location.reload()")
            p.fill("#schedule", "whenever")
            p.click("text=Save")
            p.wait_for_selector("[role=alert]")
            w.look("refused")
            p.fill("#schedule", "every 15 min")
            p.fill("#ignore", "*.tmp\nnode_modules/")
            p.click("text=Save")
            p.click("text=Pause")
            p.wait_for_selector("text=Paused")
            w.look("paused")
            p.click("text=Go on")
            p.click("text=Bring in step now")
            if p.input_value("#schedule") != "every 15 min":
                problems.append("the device forgot its schedule")
        stranger = fresh("desktop").new_page()
        if stranger.goto(address.split("?")[0]).status != 403:
            problems.append("the device's page opens without its token")
    finally:
        daemon.terminate()
        daemon.wait(20)


def main():
    with tempfile.TemporaryDirectory() as tmp, sync_playwright() as play:
        tmp = pathlib.Path(tmp)
        root = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else tmp / "root")
        root.mkdir(exist_ok=True)
        server, url, password = start(root)
        try:
            browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])

            def fresh(width="desktop", **more):
                w, h = WIDTHS[width]
                return watch(browser.new_context(
                    viewport={"width": w, "height": h}, ignore_https_errors=True, **more))
            for width in WIDTHS:
                files = [tmp / n for n in (
                    "report.txt", "old draft.txt",
                    "an-unusually-long-file-name-without-any-space-in-it-2026-11-26.pdf",
                    "plan (conflict laptop 2026-11-26).txt", "mountains.png")]
                for f in files:
                    f.write_text("first version\n" * 50)
                files[2].write_bytes(PDF)
                disk = root.parent / f"disk-{width}"
                disk.mkdir()
                link = user(fresh(width), url, width, files)
                guest(fresh(width), link, width)
                admin(fresh(width), url, width, password, disk)
            by_keyboard(fresh, url, password)
            without_scripts(fresh("phone", java_script_enabled=False), url, files)
            in_the_dark(fresh(color_scheme="dark"), url, password)
            device(fresh, url, root / ".sync/cert.pem", tmp)
            # A certificate that nobody trusts keeps service workers out: one context trusts it.
            browser.close()
            browser = play.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--ignore-certificate-errors"])
            shell(watch(browser.new_context(ignore_https_errors=True)), url)
            browser.close()
        finally:
            server.terminate()
            server.wait(20)
    have = pages()
    for page in have:
        if not any(re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", page), path) for path in seen):
            problems.append(f"{page} was not looked at")
    for p in problems:
        print("problem:", p)
    print(f"{len(have)} pages, {len(list(OUT.glob('*.png')))} screenshots in {OUT}, {len(problems)} problems")
    return bool(problems)


begin = time.time()
code = main()
print(f"{time.time() - begin:.0f} s")
sys.exit(code)
