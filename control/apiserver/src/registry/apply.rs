//! PATCH with `application/apply-patch+yaml`: server-side apply.

use apimachinery::apply::{self, Set};
use apimachinery::decode::{self, Media};
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use apimachinery::{meta, time};
use http::{Response, StatusCode};
use serde_json::Value;

use super::managers::{self, Apply, Who};
use super::options::ApplyOptions;
use super::write::{Part, Writer};
use super::{Call, body, convert, respond};
use crate::request::ResponseBody;

/// The media type.
pub(super) const MEDIA: &str = "application/apply-patch+yaml";

impl Call<'_> {
    /// Applies a configuration; of a whole object that is not there, it makes one.
    pub(super) async fn apply(&self, part: Part, body: &[u8]) -> Result<Response<ResponseBody>, Status> {
        let storage = self.served.storage()?;
        let accepted = self.accepted()?;
        let options = ApplyOptions::parse(self.query)?;
        let (Some(schema), Some(stored)) = (self.served.schema, storage.schema) else {
            return Err(Status::unsupported_media_type("objects of this kind cannot be applied"));
        };
        let config = self.configuration(body, schema, &options)?;
        let (now, leaves) = (time::now_rfc3339(), storage.facts.status_leaves);
        let within = |set: Set| match part {
            Part::Main if storage.has_status => set.without(&["status"]),
            Part::Status => {
                leaves.iter().fold(set.keeping(is_written_with_status), |set, leaf| set.without(&["metadata", leaf]))
            }
            _ => set,
        };
        let who =
            Who { manager: &options.manager, api_version: &self.served.api_version, subresource: part.subresource() };
        let context = Apply { who, force: options.force, schema: stored, within: &within, now: &now };
        let mut change = |old: &Value| {
            let uid = meta::uid(&config);
            if old.is_null() && !uid.is_empty() {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                return Err(Status::conflict(storage.group, storage.resource, self.name, why));
            }
            let mut new = managers::apply(old, &config, &context)?;
            decode::check(stored, &mut new, options.write.validation)?;
            Ok(new)
        };
        let makes = matches!(part, Part::Main);
        let may_make = makes && self.may_create();
        let writer = Writer { applies: true, ..self.writer(options.write.dry_run)? };
        let written = match writer.update(self.name, part, may_make, &mut change).await {
            Err(status) if status.code == 404 && makes && !may_make => return Err(self.creation_forbidden(status)),
            done => done?,
        };
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        respond::object(code, self.served, storage, accepted, &written.bytes)
    }

    /// Reads what is to be applied, in the stored version.
    fn configuration(&self, bytes: &[u8], schema: &Schema, options: &ApplyOptions) -> Result<Value, Status> {
        let json = bytes.trim_ascii_start().starts_with(b"{");
        let media = if json { Media::Json } else { Media::Yaml };
        let decoded = decode::decode(bytes, media, None, options.write.validation)?;
        decoded.warnings.into_iter().for_each(|warning| self.warnings.push(warning));
        let mut config = decoded.object;
        body::check_kind(&mut config, self.expected())?;
        self.check_name(&config)?;
        if config["metadata"].get("managedFields").is_some_and(|managed| !managed.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let problems = apply::check(&config, schema);
        if !problems.is_empty() {
            let what = managers::described(&config);
            let why = match &problems[..] {
                [one] => one.clone(),
                several => format!("errors:\n  {}", several.join("\n  ")),
            };
            return Err(managers::refused(&format!("failed to create typed patch object ({what}): {why}")));
        }
        decode::check(schema, &mut config, options.write.validation)?;
        convert::to_storage(self.served, self.served.storage()?, &mut config);
        Ok(config)
    }
}

fn is_written_with_status(field: &str) -> bool {
    matches!(field, "metadata" | "status")
}
