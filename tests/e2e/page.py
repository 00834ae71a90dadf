"""page.py - the web page in a real browser: Chromium without a window, driven by selenium.

Skips where chromium, chromedriver or python3-selenium is not installed (Debian: chromium,
chromium-driver, python3-selenium).
"""
import contextlib
import os
import shutil
import time

import harness
from harness import SLOW, Skip

WAIT_S = 60 * SLOW
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--disable-background-networking", "--window-size=1100,1400")


def find(name):
    path = shutil.which(name)
    if path is None:
        raise Skip(f"{name} is not installed")
    return path


@contextlib.contextmanager
def browser():
    """A Page; at the end nothing may have gone against the page's own policy."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError as why:
        raise Skip("python3-selenium is not installed") from why
    options = webdriver.ChromeOptions()
    options.binary_location = find("chromium")
    for argument in (*ARGUMENTS, f"--user-data-dir={harness.scratch()}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(find("chromedriver"), log_path=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        page = Page(driver)
        yield page
        page.check_log()
    finally:
        driver.quit()


class Page:
    def __init__(self, driver):
        self.driver, self.downloads = driver, harness.scratch()
        driver.execute_cdp_cmd("Browser.setDownloadBehavior",
                               {"behavior": "allow", "downloadPath": self.downloads})

    def open(self, d, path="/"):
        self.driver.get(f"http://127.0.0.1:{d.port}{path}")

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        """As it is shown; "" where there is none."""
        return " ".join(e.text for e in self.all(selector) if e.is_displayed())

    def type(self, selector, text):
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def choose(self, selector, value):
        self.one(f'{selector} option[value="{value}"]').click()

    def click(self, selector):
        self.one(selector).click()

    def wait(self, selector, text, timeout=WAIT_S):
        """Until what is shown there has the text; what it is then."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait
        try:
            WebDriverWait(self.driver, timeout, 0.1, [StaleElementReferenceException]).until(
                lambda _: text in self.text(selector))
        except TimeoutException:
            raise AssertionError(f"{text!r} is not in {selector}: {self.text('body')}") from None
        return self.text(selector)

    def downloaded(self, timeout=WAIT_S):
        """(name, bytes) of the one file that came."""
        end, whole = time.monotonic() + timeout, []
        while not whole:
            assert time.monotonic() < end, os.listdir(self.downloads)
            time.sleep(0.05)
            whole = [n for n in os.listdir(self.downloads)
                     if not n.startswith(".") and not n.endswith(".crdownload")]
        name, = whole
        with open(os.path.join(self.downloads, name), "rb") as f:
            return name, f.read()

    def check_log(self):
        for line in self.driver.get_log("browser"):
            assert "Content Security Policy" not in line["message"], line
            assert "Uncaught" not in line["message"], line
