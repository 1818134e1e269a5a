//! gRPC probes: `grpc.health.v1.Health/Check`, whose two messages are small enough to write here.

use tonic::transport::Endpoint;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Asks once.
pub(crate) async fn check(target: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|e| e.to_string())?;
    let unreachable = |error: &dyn std::fmt::Display| format!("timeout: failed to connect service {target:?}: {error}");
    let channel = endpoint.connect().await.map_err(|e| unreachable(&e))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| unreachable(&e))?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    match client.unary(request, path, codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Ok(()),
        Ok(answer) => Err(format!("service unhealthy (responded with status {})", answer.get_ref().status)),
        Err(status) => Err(format!("error: health rpc probe failed: {status}")),
    }
}
