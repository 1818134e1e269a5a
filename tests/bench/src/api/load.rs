//! The workers: each has a connection and does one operation after the other until all pods are dealt with.

use super::pods::{PODS, Pods};
use crate::client::{Call, Connection, Target};
use crate::usage;
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a worker does with each pod.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Create,
    Get,
    /// Get it, change it, put it back.
    Put,
    /// Get it, send a strategic merge patch.
    Patch,
    Delete,
}

/// What one phase took.
#[derive(Debug)]
pub(crate) struct Phase {
    pub wall: Duration,
    /// Of the server.
    pub cpu: Duration,
    /// One for each operation, in order of length.
    pub latencies: Vec<Duration>,
}

/// The workers, between phases.
#[derive(Debug)]
pub(crate) struct Load {
    server: u32,
    pods: Arc<Pods>,
    connections: Vec<Connection>,
}

impl Load {
    /// Connects the workers.
    pub(crate) async fn open(target: &Target, server: u32, pods: Arc<Pods>, workers: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::with_capacity(workers);
        for _ in 0..workers {
            connections.push(target.connect().await?);
        }
        Ok(Self { server, pods, connections })
    }

    /// Makes the namespace and what its pods need.
    pub(crate) async fn prepare(&mut self) -> anyhow::Result<()> {
        let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#;
        let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
        let connection = &mut self.connections[0];
        connection.call(Call::post("/api/v1/namespaces"), Bytes::from_static(namespace.as_bytes())).await?;
        let accounts = "/api/v1/namespaces/bench/serviceaccounts";
        connection.call(Call::post(accounts), Bytes::from_static(account.as_bytes())).await?;
        Ok(())
    }

    /// Does the operation on every pod.
    ///
    /// # Errors
    /// The first operation that failed.
    pub(crate) async fn run(&mut self, operation: Operation) -> anyhow::Result<Phase> {
        let next = Arc::new(AtomicUsize::new(0));
        let (cpu, begun) = (usage::cpu(self.server)?, Instant::now());
        let workers: Vec<_> = self
            .connections
            .drain(..)
            .map(|connection| tokio::spawn(work(connection, self.pods.clone(), next.clone(), operation)))
            .collect();
        let mut latencies = Vec::with_capacity(self.pods.len());
        for worker in workers {
            let (connection, own) = worker.await?.with_context(|| format!("{operation:?}"))?;
            self.connections.push(connection);
            latencies.extend(own);
        }
        let (wall, cpu) = (begun.elapsed(), usage::cpu(self.server)? - cpu);
        latencies.sort_unstable();
        Ok(Phase { wall, cpu, latencies })
    }

    /// Lists all pods again and again; also the length of a list.
    ///
    /// # Errors
    /// The server answered with no success.
    pub(crate) async fn list(&mut self, times: usize) -> anyhow::Result<(Phase, usize)> {
        let (mut latencies, mut length) = (Vec::with_capacity(times), 0);
        let (cpu, begun) = (usage::cpu(self.server)?, Instant::now());
        for _ in 0..times {
            let sent = Instant::now();
            length = self.connections[0].get_length(PODS).await?;
            latencies.push(sent.elapsed());
        }
        let (wall, cpu) = (begun.elapsed(), usage::cpu(self.server)? - cpu);
        latencies.sort_unstable();
        Ok((Phase { wall, cpu, latencies }, length))
    }

    /// Checks that every acknowledged pod is listed, once.
    ///
    /// # Errors
    /// Says what is missing or repeated.
    pub(crate) async fn verify(&mut self) -> anyhow::Result<()> {
        let list = self.connections[0].get(PODS).await?;
        let (mut seen, mut rest) = (vec![0_u32; self.pods.len()], &list[..]);
        while let Some((number, place)) = Pods::number(rest) {
            *seen.get_mut(number).context("a pod that nobody created")? += 1;
            rest = &rest[place..];
        }
        let wrong = seen.iter().filter(|&&times| times != 1).count();
        ensure!(wrong == 0, "{wrong} acknowledged pods are not listed exactly once");
        Ok(())
    }
}

async fn work(
    mut connection: Connection,
    pods: Arc<Pods>,
    next: Arc<AtomicUsize>,
    operation: Operation,
) -> anyhow::Result<(Connection, Vec<Duration>)> {
    let mut latencies = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= pods.len() {
            return Ok((connection, latencies));
        }
        let begun = Instant::now();
        perform(&mut connection, &pods, number, operation).await?;
        latencies.push(begun.elapsed());
    }
}

async fn perform(connection: &mut Connection, pods: &Pods, number: usize, operation: Operation) -> anyhow::Result<()> {
    let path = Pods::path(number);
    let pod = match operation {
        Operation::Create => connection.call(Call::post(PODS), pods.body(number)).await?,
        Operation::Get => connection.get(&path).await?,
        Operation::Put => {
            let changed = Pods::changed(&connection.get(&path).await?).context("the pod lacks its label")?;
            connection.call(Call { method: &Method::PUT, ..Call::get(&path) }, changed).await?
        }
        Operation::Patch => {
            connection.get(&path).await?;
            let content_type = "application/strategic-merge-patch+json";
            connection.call(Call { method: &Method::PATCH, path: &path, content_type }, Pods::patch()).await?
        }
        Operation::Delete => {
            let path = format!("{path}?gracePeriodSeconds=0");
            connection.call(Call { method: &Method::DELETE, ..Call::get(&path) }, Bytes::new()).await?
        }
    };
    let about = Pods::number(&pod).map(|(number, _)| number);
    ensure!(about == Some(number), "the answer for pod {number} is about {about:?}");
    Ok(())
}
