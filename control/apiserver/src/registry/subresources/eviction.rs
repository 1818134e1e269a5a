//! `pods/eviction`: a deletion that disruption budgets may refuse (they do not exist yet).

use apimachinery::resources::Subresource;
use apimachinery::status::Status;
use http::Response;

use super::{decode, success};
use crate::registry::Call;
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::request::ResponseBody;

pub(super) async fn create(
    call: &Call<'_>,
    subresource: &Subresource,
    body: &[u8],
) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let eviction = decode(call, subresource, options, body)?;
    call.check_name(&eviction)?;
    let mut deletion = DeleteOptions::parse(call.query, Some(&eviction["deleteOptions"]))?;
    deletion.dry_run |= options.dry_run;
    call.writer(deletion.dry_run)?.delete(call.name, &deletion).await?;
    Ok(success())
}
