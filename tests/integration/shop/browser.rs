//! A headless browser.

use super::client::agent;
use super::servers::process::Process;
use super::servers::{TEST_TIMEOUT, eventually, free_port};
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A headless Chromium and its driver.
pub(crate) struct Browser {
    pub(crate) client: Client,
    driver: Driver,
    _profile: TempDir,
}

struct Driver {
    port: u16,
    process: Process,
}

impl Browser {
    /// Starts a browser with a viewport of 1280 by 800 pixels.
    pub(crate) async fn start() -> Self {
        let driver = Driver::start();
        let profile = tempfile::tempdir().unwrap();
        let folder = format!("--user-data-dir={}", profile.path().display());
        let mut options = vec![
            "--headless",
            // Chromium refuses to run as root in its sandbox.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            // Chromium must not open connections of its own.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ];
        options.push(&folder);
        let capabilities = json!({
            "goog:chromeOptions": { "args": options },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let capabilities: Capabilities = serde_json::from_value(capabilities).unwrap();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver.url())
            .await
            .expect("chromium is installed");
        let browser = Self {
            client,
            driver,
            _profile: profile,
        };
        browser.resize(1_280, 800).await;
        browser
    }

    /// Sets the size of the viewport, in pixels.
    async fn resize(&self, width: u32, height: u32) {
        let frame = "return [outerWidth - innerWidth, outerHeight - innerHeight]";
        let frame: [u32; 2] = serde_json::from_value(self.run(frame).await).unwrap();
        let (width, height) = (width + frame[0], height + frame[1]);
        self.client.set_window_size(width, height).await.unwrap();
    }

    /// Returns the visible text of an element.
    pub(crate) async fn text(&self, css: &str) -> String {
        // The page may replace the element between the two calls.
        loop {
            let element = self.client.find(Locator::Css(css)).await.unwrap();
            match element.text().await {
                Err(error) if error.is_stale_element_reference() => {}
                text => return text.unwrap(),
            }
        }
    }

    pub(crate) async fn click(&self, css: &str) {
        let element = self.client.find(Locator::Css(css)).await.unwrap();
        element.click().await.unwrap();
    }

    /// Waits until an expression of JavaScript is true.
    pub(crate) async fn until(&self, script: &str) {
        let condition = format!("return Boolean({script})");
        let is_true = async {
            while self.run(&condition).await != true {
                // The driver does not announce changes of the page, so the page is polled.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(TEST_TIMEOUT, is_true).await;
        if waited.is_err() {
            let shown = self.text("body").await;
            panic!("not true: {script}\n{shown}\n{:#}", self.log().await);
        }
    }

    /// Runs a script in the page, and returns its result.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Returns the messages in the console of the page since the previous call.
    pub(crate) async fn log(&self) -> Value {
        let session = self.client.session_id().await.unwrap().unwrap();
        let url = format!("{}/session/{session}/se/log", self.driver.url());
        let request = move || {
            let mut answer = agent()
                .post(url)
                .send_json(json!({ "type": "browser" }))
                .unwrap();
            answer.body_mut().read_json::<Value>().unwrap()
        };
        tokio::task::spawn_blocking(request).await.unwrap()["value"].take()
    }

    pub(crate) async fn close(self) {
        self.client.close().await.unwrap();
    }
}

impl Driver {
    /// Starts `chromedriver`, and waits until it listens.
    fn start() -> Self {
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(&mut command).expect("chromium-driver is installed");
        let driver = Self { port, process };
        eventually("chromedriver listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        driver
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A driver that is shut down ends its browsers first. One that is killed does not.
        if agent()
            .get(format!("{}/shutdown", self.url()))
            .call()
            .is_err()
        {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}
