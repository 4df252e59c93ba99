#!/usr/bin/env python3
"""Walks every page of the sync service in Debian's Chromium (headless), as a user, a guest with a link and
the administrator, at desktop and phone width, once by keyboard alone, and asks axe about each page.

    pip install playwright axe-playwright-python; apt-get install chromium
    tests/programs/browser.py PVFS2 OUT    (the pvfs2 program; a folder for the screenshots)

Ends with 0 if every page came, none is wider than the window, and axe found nothing serious.
"""
import pathlib
import re
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
    p.set_input_files("input[type=file]", files)
    p.click("button:has-text('Upload')")
    p.wait_for_selector("text=report.txt")
    files[0].write_text("second version, longer\n" * 200)
    p.set_input_files("input[type=file]", [files[0]])
    p.click("button:has-text('Upload')")
    w.look("files")
    here = p.url
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
    w.go(f"{url}/account", "account")
    p.fill("#app", "rclone on the laptop")
    p.click("text=Make an app password")
    w.look("app-password")
    p.goto(f"{url}/files/99")
    w.look("error")
    return link


def guest(context, link, width):
    w = Walk(context, width, "guest")
    w.go(link, "link-password")
    w.page.fill("#password", "open sesame")
    w.page.click("text=Open")
    w.page.wait_for_selector("table")
    w.look("link")


def admin(context, url, width, password):
    w = Walk(context, width, "admin")
    w.go(f"{url}/login", "login")
    w.page.fill("#user", "admin")
    w.page.fill("#password", password)
    w.page.click("button:has-text('Sign in')")
    w.page.wait_for_url("**/files/1")
    w.go(f"{url}/admin", "users")


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
                files = [pathlib.Path(tmp) / n for n in ("report.txt", "old draft.txt", "an-unusually-long-file-name-without-any-space-in-it-2026-11-26.pdf")]
                for f in files:
                    f.write_text("first version\n" * 50)
                link = user(fresh(), url, width, files)
                guest(fresh(), link, width)
                admin(fresh(), url, width, password)
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
