//! Metrics of a confined process: their content, and scrapers that misbehave.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use vfio_user::Client;

use crate::harness;
use crate::links::in_namespace;
use crate::process::Served;

const DOCUMENT: &str = include_str!("../../../../docs/operations.md");
const RULES: &str = include_str!("../../../../contrib/prometheus/manatee.rules.yml");
const DASHBOARD: &str = include_str!("../../../../contrib/grafana/manatee.json");
/// The longest that any step may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// The number of scrapers that are served at a time.
const MAX_SCRAPERS: usize = 8;

/// A server with metrics at a socket in its folder.
struct Shown {
    served: Served,
    _dir: tempfile::TempDir,
    socket: PathBuf,
}

impl Shown {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("metrics.sock");
        let served = Served::start(&["--metrics", socket.to_str().unwrap()]);
        served.discard_log();
        Self {
            served,
            _dir: dir,
            socket,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends a request. Returns head and body of the response.
    fn get(&self, path: &str) -> (String, String) {
        self.try_get(path).unwrap()
    }

    /// As [`get`](Self::get); fails if there are too many scrapers.
    fn try_get(&self, path: &str) -> io::Result<(String, String)> {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, text) = answer
            .split_once("\r\n\r\n")
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((head.to_owned(), text.to_owned()))
    }

    /// Scrapes until a metric has a value, ignoring refused connections.
    fn wait_for(&self, metric: &str, expected: &str) {
        let begun = Instant::now();
        loop {
            let (_, text) = self.try_get("/metrics").unwrap_or_default();
            let value = value_of(&text, metric);
            if value.as_deref() == Some(expected) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{metric} is {value:?}\n{text}");
        }
    }
}

fn value_of(text: &str, metric: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(metric))?;
    line.strip_prefix(' ').map(str::to_owned)
}

/// Returns the names of all metric families of a text.
fn families(text: &str) -> Vec<&str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn metrics_are_shown_from_inside_the_jail() {
    let shown = Shown::start();
    let (head, text) = shown.get("/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value_of(&text, "manatee_jail_confined").unwrap(), "1.0");
    assert_eq!(value_of(&text, "manatee_swaps_total").unwrap(), "0");
    let path = shown.served.dir().join("next.wasm");
    std::fs::write(&path, manatee_variants::NEXT).unwrap();
    let next = File::open(path).unwrap();
    shown.served.swap("next.wasm", &next).unwrap();
    shown.wait_for("manatee_swaps_total", "1");
    shown.wait_for("manatee_swap_pause_seconds_count", "1");
    let vmm = Client::new(&shown.served.socket()).unwrap();
    shown.wait_for("manatee_vmm_attached", "1.0");
    drop(vmm);
    shown.wait_for("manatee_vmm_attached", "0.0");
    let (head, text) = shown.get("/");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert!(text.contains("/metrics"), "{text}");
}

#[test]
fn every_metric_is_documented_and_those_of_the_rules_exist() {
    let shown = Shown::start();
    let (_, text) = shown.get("/metrics");
    let families = families(&text);
    assert!(families.len() > 20, "{families:?}");
    for family in &families {
        assert!(DOCUMENT.contains(&format!("`{family}")), "{family}");
    }
    for named in names(RULES).chain(names(DASHBOARD)) {
        let known = families.iter().any(|family| {
            let rest = named.strip_prefix(family);
            rest.is_some_and(|rest| ["", "_total", "_info", "_bucket"].contains(&rest))
        });
        assert!(known, "there is no metric {named}");
    }
}

/// Returns the metrics that a text names.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("manatee_"))
}

#[test]
fn scrapers_that_are_slow_many_or_gone_are_bounded() {
    let shown = Shown::start();
    let mut silent: Vec<_> = (0..MAX_SCRAPERS).map(|_| shown.connect()).collect();
    // One more is refused once those are connected.
    let begun = Instant::now();
    loop {
        let mut more = shown.connect();
        let mut answer = Vec::new();
        let _ = write!(more, "GET /metrics HTTP/1.1\r\n\r\n");
        // Unread data resets the connection.
        let _ = more.read_to_end(&mut answer);
        if answer.is_empty() {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "no scraper is refused");
    }
    // They are disconnected at their time limit, and free their slot when they disconnect.
    assert_eq!(silent.pop().unwrap().read(&mut [0]).unwrap(), 0);
    drop(silent);
    shown.wait_for("manatee_swaps_total", "0");
    // A scraper that disconnects after its request delays no other.
    for _ in 0..100 {
        let mut gone = shown.connect();
        let _ = write!(gone, "GET /metrics HTTP/1.1\r\n\r\n");
    }
    let mut endless = shown.connect();
    let _ = endless.write_all(format!("GET /{}", "x".repeat(10_000)).as_bytes());
    let mut answer = String::new();
    let _ = endless.read_to_string(&mut answer);
    shown.wait_for("manatee_jail_confined", "1.0");
    assert!(shown.served.inspect()["jail"].is_object());
}

#[test]
fn the_socket_goes_with_the_process() {
    let mut shown = Shown::start();
    assert!(shown.socket.exists());
    shown.served.signal(rustix::process::Signal::TERM);
    assert!(shown.served.wait().success());
    assert!(!shown.socket.exists());
    let refused = harness::serve(Path::new("/nonexistent/s"))
        .args(["--metrics", "metrics.sock"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("127.0.0.1:9464"), "{words}");
}

/// Returns a program that scripts/setup.sh fetches if it is missing; under a lock, since tests run
/// in parallel.
fn tool(name: &str) -> Command {
    static SETUP: Mutex<()> = Mutex::new(());
    let _only = SETUP.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let setup = Command::new(root.join("scripts/setup.sh"))
        .arg("prometheus")
        .stdout(Stdio::null())
        .status();
    assert!(setup.unwrap().success(), "scripts/setup.sh prometheus");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Command::new(target.join("tools/bin").join(name))
}

#[test]
fn alert_rules_and_dashboard_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/prometheus");
    let dir = tempfile::tempdir().unwrap();
    let queries = dir.path().join("dashboard.yml");
    std::fs::write(&queries, dashboard_as_rules()).unwrap();
    for arguments in [
        ["check", "rules", "manatee.rules.yml"],
        ["test", "rules", "manatee.test.yml"],
        ["check", "rules", queries.to_str().unwrap()],
    ] {
        let output = tool("promtool")
            .current_dir(&folder)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

/// Returns the dashboard's queries as rules that promtool can check.
fn dashboard_as_rules() -> String {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (index, target) in targets.enumerate() {
        let query = target["expr"].as_str().unwrap();
        let query = query
            .replace("$__rate_interval", "5m")
            .replace("$instance", ".*");
        rules += &format!(
            "  - record: query:{index}\n    expr: {}\n",
            Value::from(query)
        );
    }
    rules
}

/// A running Prometheus, in the network namespace of this thread.
struct Prometheus {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: manatee\n  \
             static_configs:\n  - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut process = tool("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:9090")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Server is ready") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "Prometheus ended");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            process,
            address: "127.0.0.1:9090".to_owned(),
            _dir: dir,
        }
    }

    /// Waits until a query has a value, and returns it.
    fn query(&self, query: &str) -> String {
        let begun = Instant::now();
        loop {
            let mut stream = TcpStream::connect(&self.address).unwrap();
            write!(
                stream,
                "GET /api/v1/query?query={query} HTTP/1.0\r\nHost: x\r\n\r\n"
            )
            .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["status"], "success", "{body}");
            if let Some(value) = body["data"]["result"][0]["value"][1].as_str() {
                return value.to_owned();
            }
            assert!(begun.elapsed() < DEADLINE, "{query}: {body}");
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_and_answers() {
    in_namespace(|| {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success(), "`ip` comes with iproute2");
        let served = Served::start(&["--metrics", "127.0.0.1:9464"]);
        served.discard_log();
        let prometheus = Prometheus::start("127.0.0.1:9464");
        assert_eq!(prometheus.query("up==1"), "1");
        assert_eq!(prometheus.query("manatee_jail_confined"), "1");
        assert_eq!(prometheus.query("count(manatee_packets_total)"), "2");
        assert_eq!(
            prometheus.query("manatee_device_state%7Bstate=%22running%22%7D"),
            "1"
        );
        let path = served.dir().join("next.wasm");
        std::fs::write(&path, manatee_variants::NEXT).unwrap();
        served
            .swap("next.wasm", &File::open(path).unwrap())
            .unwrap();
        assert_eq!(prometheus.query("manatee_swaps_total==1"), "1");
        assert_eq!(prometheus.query("manatee_swap_pause_seconds_count==1"), "1");
    });
}
