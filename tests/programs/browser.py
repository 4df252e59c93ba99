#!/usr/bin/env python3
"""Walks every page of the sync service in Debian's Chromium (headless), as a user, a guest with a link and
the administrator, at desktop and phone width, once by keyboard alone, and asks axe about each page.

    pip install playwright axe-playwright-python; apt-get install chromium
    tests/programs/browser.py PVFS2 OUT    (the pvfs2 program; a folder for the screenshots)

Ends with 0 if every page came, none is wider than the window, and axe found nothing serious.
"""
import base64
import hmac
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

BIN, OUT = sys.argv[1], pathlib.Path(sys.argv[2])
OUT.mkdir(parents=True, exist_ok=True)
WIDTHS = {"desktop": (1200, 800), "phone": (390, 844)}
problems = []


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

    def look(self, name, full=True):
        page = self.page
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if wide > 0:
            problems.append(f"{self.width} {name}: {wide} px wider than the window")
        for v in Axe().run(page).response["violations"]:
            if v["impact"] in ("serious", "critical"):
                problems.append(f"{self.width} {name}: axe {v['id']}: {v['nodes'][0]['html'][:120]}")
        page.screenshot(path=OUT / f"{self.width}-{self.who}-{name}.png", full_page=full)

    def go(self, url, name):
        answer = self.page.goto(url)
        if answer.status >= 400:
            problems.append(f"{self.width} {name}: {answer.status}")
        self.look(name)


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
    p.fill("#password", "correct horse battery")
    p.click("button:has-text('Sign in')")
    p.wait_for_selector("#code")
    w.look("code")
    p.fill("#code", recovery)
    p.click("button:has-text('Sign in')")
    p.wait_for_url("**/files/1")
    w.go(f"{url}/account/two-step", "two-step-on")
    p.fill("#p2", "correct horse battery")
    p.click("text=Turn it off")
    p.wait_for_selector("text=It is off")


def user(context, url, width, files):
    w = Walk(context, width, "user")
    p = w.page
    w.go(f"{url}/signup", "signup")
    # By keyboard alone.
    for text in (f"ann-{width}", "correct horse battery"):
        while p.evaluate("document.activeElement.tagName") != "INPUT" or p.evaluate("document.activeElement.value"):
            p.keyboard.press("Tab")
        p.keyboard.type(text)
    p.keyboard.press("Enter")
    p.wait_for_url("**/files/1")
    w.look("empty")
    for name in ("Photos", "Documents", "A folder with quite a long name that goes on and on"):
        p.fill("input[name=name]", name)
        p.click("text=Make")
    p.click("text=Documents/")
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
    for name in (files[0].name, files[-1].name):
        p.click(f"[aria-label='View {name}']")
        p.wait_for_function("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        w.look("view-" + name.rsplit(".")[-1])
        p.goto(here)
    p.click(f"[aria-label='Details of {files[0].name}']")
    w.look("details")
    p.fill("#link-password", "open sesame")
    p.click("text=Make a link")
    link = p.get_attribute("a.hash", "href")
    w.look("link")
    p.goto(here)
    p.click(f"[aria-label='Details of {files[1].name}']")
    p.click("button.danger")
    w.go(f"{url}/trash", "trash")
    w.go(f"{url}/conflicts", "conflicts")
    w.go(f"{url}/activity", "activity")
    w.go(f"{url}/account", "account")
    p.fill("#app", "rclone on the laptop")
    p.click("text=Make an app password")
    w.look("app-password")
    p.goto(f"{url}/files/99")
    w.look("error")
    two_steps(w, url, f"ann-{width}")
    return link


def guest(context, link, width):
    w = Walk(context, width, "guest")
    w.go(link, "link-password")
    w.page.fill("#password", "open sesame")
    w.page.click("text=Open")
    w.page.wait_for_selector("table")
    w.look("link")


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
    context.set_offline(True)
    p.goto(f"{url}/files/1")
    if "Offline" not in p.title():
        problems.append(f"offline: {p.title()}")
    kept = p.evaluate("caches.keys().then((k) => Promise.all(k.map((n) => caches.open(n).then((c) => c.keys()))))"
                      ".then((all) => all.flat().map((r) => new URL(r.url).pathname))")
    if sorted(kept) != ["/icon-192.png", "/icon.svg", "/offline", "/style.css"]:
        problems.append(f"the service worker keeps {kept}")
    context.set_offline(False)


def admin(context, url, width, password, disk):
    w = Walk(context, width, "admin")
    w.go(f"{url}/login", "login")
    w.page.fill("#user", "admin")
    w.page.fill("#password", password)
    w.page.click("button:has-text('Sign in')")
    w.page.wait_for_url("**/files/1")
    w.go(f"{url}/admin", "users")
    p = w.page
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


def main():
    with tempfile.TemporaryDirectory() as tmp, sync_playwright() as play:
        root = pathlib.Path(tmp) / "root"
        root.mkdir()
        server, url, password = start(root)
        try:
            browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for width, (w, h) in WIDTHS.items():
                def fresh():
                    return browser.new_context(
                        viewport={"width": w, "height": h}, ignore_https_errors=True)
                files = [pathlib.Path(tmp) / n for n in (
                    "report.txt", "old draft.txt",
                    "an-unusually-long-file-name-without-any-space-in-it-2026-11-26.pdf",
                    "plan (conflict laptop 2026-11-26).txt", "mountains.png")]
                for f in files:
                    f.write_text("first version\n" * 50)
                disk = pathlib.Path(tmp) / f"disk-{width}"
                disk.mkdir()
                link = user(fresh(), url, width, files)
                guest(fresh(), link, width)
                admin(fresh(), url, width, password, disk)
            # A certificate that nobody trusts keeps service workers out: one context trusts it.
            browser.close()
            browser = play.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--ignore-certificate-errors"])
            shell(browser.new_context(), url)
            browser.close()
        finally:
            server.terminate()
            server.wait(20)
    for p in problems:
        print("problem:", p)
    print(f"{len(list(OUT.glob('*.png')))} screenshots in {OUT}, {len(problems)} problems")
    return bool(problems)


begin = time.time()
code = main()
print(f"{time.time() - begin:.0f} s")
sys.exit(code)
