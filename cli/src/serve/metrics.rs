//! The door of executors and ingestors for metrics, and who may ask there.
use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, anyhow, bail};
use polybolos_gateway::http;
use polybolos_scheduler::DoorTls;
use polybolos_service::{auth::Users, ports, telemetry};
use prometheus::Registry;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::Config;

impl Config {
    /// Opens the only door that executors and ingestors have for people, where it is set; it closes when dropped.
    pub(super) async fn open_metrics_door(
        &self,
        key: &str,
        address: &str,
        registry: &Registry,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
        let Some((address, users)) = metrics_door(key, address, self.roles_file())? else { return Ok(None) };
        let tls = self.tls.read()?.as_ref().map(DoorTls::http);
        let listener = ports::bind(address.ip(), address.port(), "metrics", key).await?;
        let registry = registry.clone();
        let shown = Arc::new(move || telemetry::encode(&registry));
        let served = http::metrics::serve(listener, Arc::new(users), shown, tls, stop.clone());
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "metrics are no longer served; start this process again");
            }
        }))))
    }
}

/// Where metrics are served, and to whom besides this machine; `None` where `address` is empty. The token is on the scheduler's machine only.
fn metrics_door(key: &str, address: &str, roles: Option<&Path>) -> anyhow::Result<Option<(SocketAddr, Users)>> {
    if address.is_empty() {
        return Ok(None);
    }
    let parsed = address.parse::<SocketAddr>();
    let parsed = parsed.map_err(|_| anyhow!("{key}: {address:?} is not IP:port; write for example \"127.0.0.1:7411\""))?;
    let users = match roles {
        Some(roles) => Users::of_roles(roles).with_context(|| {
            format!("{key}: the users of scheduler.roles_file are not known here; put a copy of the scheduler's file there, or set that key to \"\" and {key} to a loopback address")
        })?,
        None if parsed.ip().is_loopback() => Users::default(),
        None => bail!(
            "{key}: nobody could log in on {address} from another machine; set scheduler.roles_file to a file with a user for Prometheus, or take 127.0.0.1"
        ),
    };
    Ok(Some((parsed, users)))
}

#[cfg(test)]
mod tests {
    use polybolos_service::config;

    use super::{super::DEFAULTS, *};

    #[test]
    fn metrics_are_served_where_it_is_set_and_somebody_can_ask() {
        let config: Config = config::load(DEFAULTS, None).expect("loads");
        for unset in [&config.executor.metrics_address, &config.ingest.metrics_address] {
            assert!(metrics_door("key", unset, config.roles_file()).expect("is valid").is_none());
        }
        let (address, users) = metrics_door("key", "[::1]:7411", None).expect("is valid").expect("is set");
        assert_eq!((address.port(), users.check(None, "")), (7411, None));
        let told = |address: &str, roles: Option<&Path>| {
            format!("{:#}", metrics_door("executor.metrics_address", address, roles).expect_err("is refused"))
        };
        assert!(told("7411", None).starts_with("executor.metrics_address: \"7411\" is not IP:port"));
        assert!(told("0.0.0.0:7411", None).contains("set scheduler.roles_file"));
        let unread = told("0.0.0.0:7411", Some(Path::new("/nowhere/roles")));
        assert!(unread.starts_with("executor.metrics_address: ") && unread.contains("scheduler.roles_file"), "{unread}");
        assert!(unread.contains("put a copy") && unread.contains("/nowhere/roles") && !unread.contains('\n'), "{unread}");
    }
}
