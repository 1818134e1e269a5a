//! ComponentStatuses: how the parts of the control plane are that the API server itself asks, which is its store.

use apimachinery::status::Status;
use apimachinery::table;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::respond::{self, Accepted, Form};
use super::{Call, Verb};
use crate::request::ResponseBody;
use crate::server::respond as answer;

/// Upstream's name for the store.
const STORE: &str = "etcd-0";

/// Answers GET of one or of all.
pub(super) async fn answer(call: &Call<'_>) -> Result<Response<ResponseBody>, Status> {
    let Accepted { form, encoding } = call.accepted()?;
    let revision = call.registry.inner.environment.store.current_revision().await;
    let object = component(STORE, revision.map(drop).map_err(|error| error.to_string()));
    let resource = call.served.resource;
    let list = call.verb == Verb::List;
    if !list && call.name != STORE {
        return Err(Status::not_found("", "componentstatuses", call.name));
    }
    let value = match form {
        Form::Object if list => {
            json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [object]})
        }
        Form::Object => object,
        Form::Metadata if list => {
            let items = [respond::partial(&object)];
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
        }
        Form::Metadata => respond::partial(&object),
        Form::Table(rows) => {
            let mut table = respond::table_head(table::columns(resource));
            table["rows"] = json!([respond::row(resource, &object, rows, Timestamp::now())]);
            table
        }
    };
    Ok(answer::object(StatusCode::OK, encoding, &value))
}

fn component(name: &str, health: Result<(), String>) -> Value {
    let (status, message) = match health {
        Ok(()) => ("True", "ok".to_owned()),
        Err(error) => ("False", error),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}]})
}
