//! Request counts and durations for `/metrics`.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::request::RequestInfo;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    resource: String,
}

/// What has panicked in this process beside requests, by task.
#[derive(Debug)]
struct TaskPanics;

impl Collector for TaskPanics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let panics = Family::<[(&str, &str); 1], Counter>::default();
        for (task, count) in supervise::panics() {
            panics.get_or_create(&[("task", task)]).inc_by(count);
        }
        let help = "Panics of tasks that went on afterwards";
        panics.encode(encoder.encode_descriptor("keelson_task_panics", help, None, panics.metric_type())?)
    }
}

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    connections: Gauge<i64, AtomicI64>,
    panics: Counter,
}

fn histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        let connections = Gauge::default();
        let panics = Counter::default();
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to the answer's head", durations.clone());
        registry.register("apiserver_connections", "Open TLS connections", connections.clone());
        registry.register("apiserver_request_panics", "Requests that ended in a panic", panics.clone());
        registry.register_collector(Box::new(TaskPanics));
        Self { registry, requests, durations, connections, panics }
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, info: &RequestInfo, code: u16, took: Duration) {
        // Unknown resources are the client's text: they must not make new time series.
        let known = info.is_resource && code != 404;
        let text = |text: &str| if known { text.to_owned() } else { String::new() };
        let labels = RequestLabels {
            verb: info.verb.as_str(),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            code,
        };
        self.requests.get_or_create(&labels).inc();
        let labels = DurationLabels { verb: info.verb.as_str(), resource: text(&info.resource) };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// One connection more (1) or less (-1).
    pub(crate) fn connection(&self, change: i64) {
        self.connections.inc_by(change);
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// The text format.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; a failure would only shorten the page.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
