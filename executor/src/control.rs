//! The control stream, from the executor's side: finds the leader, shows that it sees the same store, then beats, reports what is read
//! ahead and what tasks wrote, and does what the leader orders. When the stream breaks, the grant runs out and everything else goes on.
mod orders;
mod telling;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use polybolos_kafka::fetcher::SourceKey;
use polybolos_operators::{publish::Publisher, services::ExecutorServices};
use polybolos_proto::{
    build::{BUILD, Build, mismatch},
    executor::v1::{self as wire, executor_control_service_client::ExecutorControlServiceClient},
};
use polybolos_streaming::{ids::Generation, report::PartReport};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use wire::{attach_request::Message as Request, attach_response::Message as Response};

use crate::{Ended, ExecutorSettings, ballista, grants::PublishGrant, publishing::Publishing};

/// A leader counts an executor as lost after a second without a beat.
const BEAT: Duration = Duration::from_millis(250);

/// A leader that sends no grant for so long is gone, or this process slept: dial again.
const SILENCE: Duration = Duration::from_secs(2);

/// A scheduler answers a greeting at once, or is stopped.
const DIAL: Duration = Duration::from_secs(1);

/// For the leader to hear that this executor ends; one that does not counts it as lost.
const FAREWELL: Duration = Duration::from_millis(500);

/// Between two attempts to find a leader.
const REDIAL: Duration = Duration::from_millis(200);

/// Messages waiting for the stream; reports of a few epochs.
const OUTGOING: usize = 4096;

pub struct Control {
    settings: ExecutorSettings,
    exchange_port: u16,
    services: Arc<ExecutorServices>,
    reports: mpsc::Receiver<PartReport>,
    /// Of the present stream.
    grant: Arc<PublishGrant>,
    publishing: Publishing,
    /// Ballista's executor, once there was a leader to start it against. It answers whichever scheduler sends it tasks.
    ballista: Option<JoinHandle<Result<(), String>>>,
    /// Why a scheduler that does not fit was left, until one takes this executor: told once.
    last_misfit: String,
}

/// How one connection ended.
enum Outcome {
    Shutdown,
    /// Not the leader, or gone: try the next.
    Next(String),
    /// One of the two has to be updated or moved, which may happen at any time.
    Misfit(String),
    Restart(String),
}

impl Control {
    pub fn new(
        settings: ExecutorSettings,
        exchange_port: u16,
        services: Arc<ExecutorServices>,
        reports: mpsc::Receiver<PartReport>,
    ) -> Self {
        let publishing = Publishing::new(Publisher::new(services.clone()));
        let grant = Arc::default();
        Self { settings, exchange_port, services, reports, grant, publishing, ballista: None, last_misfit: String::new() }
    }

    pub async fn run(mut self, on_ready: impl FnOnce() + Send, shutdown: CancellationToken) -> anyhow::Result<Ended> {
        anyhow::ensure!(
            !self.settings.schedulers.is_empty(),
            "no scheduler is configured; set executor.schedulers to its host:port"
        );
        let ports = ballista::Ports::choose(&self.settings)?;
        let mut on_ready = Some(on_ready);
        let mut last_complaint = String::new();
        loop {
            for scheduler in self.settings.schedulers.clone() {
                let outcome = self.connect(&scheduler, ports, &mut on_ready, &shutdown).await;
                self.grant.revoke();
                match outcome {
                    Outcome::Shutdown => return Ok(Ended::Shutdown),
                    Outcome::Restart(why) => return Ok(Ended::Restart(why)),
                    Outcome::Misfit(why) => {
                        if why != self.last_misfit {
                            tracing::error!(%scheduler, "{why}");
                            self.last_misfit = why;
                        }
                    }
                    Outcome::Next(why) => {
                        if why != last_complaint {
                            tracing::info!(%scheduler, %why, "not connected to a leader; trying again");
                            last_complaint = why;
                        }
                    }
                }
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(Ended::Shutdown),
                    () = tokio::time::sleep(REDIAL) => {}
                }
            }
        }
    }

    async fn connect(
        &mut self,
        scheduler: &str,
        ports: ballista::Ports,
        on_ready: &mut Option<impl FnOnce() + Send>,
        shutdown: &CancellationToken,
    ) -> Outcome {
        let dial = async {
            let endpoint = Endpoint::from_shared(format!("http://{scheduler}"))?.tcp_nodelay(true);
            let mut client = ExecutorControlServiceClient::new(endpoint.connect().await?);
            let (outgoing, messages) = mpsc::channel(OUTGOING);
            outgoing.send(request(Request::Hello(self.hello(ports)))).await?;
            let incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
            anyhow::Ok((outgoing, incoming))
        };
        let dialled = tokio::select! {
            () = shutdown.cancelled() => return Outcome::Shutdown,
            dialled = timeout(DIAL, dial) => dialled,
        };
        let (outgoing, mut incoming) = match dialled {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Outcome::Next(format!("{error:#}")),
            Err(_) => return Outcome::Next("the scheduler does not answer".into()),
        };
        self.grant = Arc::default();

        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = self.services.fetcher.changed();
        let mut announced: HashMap<(SourceKey, i32), i64> = HashMap::new();
        let mut source_states: HashMap<SourceKey, Option<String>> = HashMap::new();
        let mut heard = tokio::time::Instant::now();
        let mut welcomed = false;
        // When the probe was answered. A beat that was sent later and is answered says that the leader took this executor.
        let mut answered_us = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    if outgoing.try_send(request(Request::Farewell(wire::Farewell {}))).is_ok() {
                        let closed = async { while let Ok(Some(_)) = incoming.message().await {} };
                        let _ = timeout(FAREWELL, closed).await;
                    }
                    return Outcome::Shutdown;
                }
                message = incoming.message() => {
                    heard = tokio::time::Instant::now();
                    let message = match message {
                        Ok(Some(message)) => message.message,
                        Ok(None) => return Outcome::Next("the scheduler closed the stream".into()),
                        Err(status) => return Outcome::Next(status.message().to_owned()),
                    };
                    match message {
                        Some(Response::Refusal(refusal)) if refusal.misfit => return Outcome::Misfit(refusal.reason),
                        Some(Response::Refusal(refusal)) => {
                            if welcomed {
                                tracing::warn!(%scheduler, reason = %refusal.reason, "the leader refuses this executor");
                            }
                            return Outcome::Next(refusal.reason);
                        }
                        Some(Response::Welcome(welcome)) => {
                            if let Err(outcome) = self.join(scheduler, ports, &welcome, &outgoing).await {
                                return outcome;
                            }
                            welcomed = true;
                            self.last_misfit.clear();
                            answered_us = Some(self.grant.now_us());
                        }
                        Some(message) => {
                            if let Response::Grant(grant) = &message
                                && answered_us.is_some_and(|answered_us| grant.asked_us > answered_us)
                                && let Some(ready) = on_ready.take()
                            {
                                ready();
                            }
                            let begun = match &message {
                                Response::Prefetch(prefetch) => prefetch.source.clone().map(source_key),
                                _ => None,
                            };
                            self.obey(message, &outgoing);
                            // Reading begins anew: the same end may be reached again and has to be told again; and what came while nobody
                            // led lies here already, no arrival will tell of it.
                            if let Some(source) = begun {
                                announced.retain(|(known, _), _| *known != source);
                                self.announce_available(&outgoing, &mut announced);
                            }
                        }
                        None => {}
                    }
                }
                _ = beats.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Outcome::Next("the scheduler fell silent".into());
                    }
                    if let Some(ended) = self.ballista_ended().await {
                        return Outcome::Restart(ended);
                    }
                    // A stream that the scheduler has closed tells why it did.
                    if matches!(outgoing.try_send(request(Request::Beat(self.beat()))), Err(mpsc::error::TrySendError::Full(_))) {
                        return Outcome::Next("the stream to the scheduler is stuck".into());
                    }
                    self.announce_source_states(&outgoing, &mut source_states);
                    // What a full stream kept from being told, though nothing more arrives.
                    if welcomed {
                        self.announce_available(&outgoing, &mut announced);
                    }
                }
                changed = changed.changed(), if welcomed => {
                    if changed.is_ok() {
                        self.announce_available(&outgoing, &mut announced);
                    }
                }
                report = self.reports.recv(), if welcomed => {
                    let Some(report) = report else { return Outcome::Shutdown };
                    if outgoing.send(request(Request::PartReport(report.into()))).await.is_err() {
                        // The attempt misses this report and is run again; its part file is rubbish nobody saw.
                        return Outcome::Next("the scheduler closed the stream".into());
                    }
                }
            }
        }
    }

    /// Answers the probe of the store, and starts Ballista's executor when this is the first leader.
    async fn join(
        &mut self,
        scheduler: &str,
        ports: ballista::Ports,
        welcome: &wire::Welcome,
        outgoing: &mpsc::Sender<wire::AttachRequest>,
    ) -> Result<(), Outcome> {
        let scheduler_build = Build { version: &welcome.version, protocol: &welcome.protocol };
        if let Some(why) = mismatch(&self.settings.host.to_string(), BUILD, scheduler_build) {
            return Err(Outcome::Misfit(why));
        }
        let (offered, followed) = (Generation(welcome.generation), self.services.generation());
        if let Some(why) = outdated(offered, followed) {
            return Err(Outcome::Next(why));
        }
        let content = match self.services.store.get(&welcome.probe_key).await {
            Ok(Some((bytes, _))) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(None) => String::new(),
            Err(error) => return Err(Outcome::Next(error.to_string())),
        };
        // One that leads another store sends this executor away (rule 19), and its generation must not keep it from its own leader.
        if !content.is_empty() {
            self.services.follow(offered);
        }
        if self.ballista.is_none() {
            let started = scheduler
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host, port.parse().ok()?)))
                .with_context(|| format!("{scheduler:?} is not host:port"))
                .and_then(|(host, port)| ballista::start(&self.settings, ports, host, port, self.services.clone()));
            match started {
                Ok(task) => self.ballista = Some(task),
                Err(error) => return Err(Outcome::Restart(format!("{error:#}"))),
            }
        }
        let answer = request(Request::ProbeAnswer(wire::ProbeAnswer { content }));
        outgoing.send(answer).await.map_err(|_| Outcome::Next("the scheduler closed the stream".into()))
    }

    async fn ballista_ended(&mut self) -> Option<String> {
        let ballista = self.ballista.as_mut().filter(|ballista| ballista.is_finished())?;
        Some(match ballista.await {
            Ok(Ok(())) => "Ballista's executor ended itself".into(),
            Ok(Err(error)) => format!("Ballista's executor failed: {error}"),
            Err(error) => format!("Ballista's executor failed: {error}"),
        })
    }
}

/// Why a leader is not followed: another has led since (EPOCHS rule 5), and this one does not know.
fn outdated(offered: Generation, followed: Generation) -> Option<String> {
    (offered < followed).then(|| {
        format!(
            "it leads in generation {offered}, and generation {followed} has led since; if its store \
             was made anew, start this executor again"
        )
    })
}

fn request(message: Request) -> wire::AttachRequest {
    wire::AttachRequest { message: Some(message) }
}

fn source_key(source: wire::SourceKey) -> SourceKey {
    SourceKey { incarnation: source.incarnation, source: source.source }
}
