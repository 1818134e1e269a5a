//! Round trips and rejections.

use super::*;

fn key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

fn issuer_with(objects: Objects) -> TokenIssuer {
    TokenIssuer::new("https://kubernetes.default.svc.cluster.local", &key(), objects).unwrap()
}

/// Objects as `(resource, namespace, name, json)`.
fn objects(list: &'static [(&str, &str, &str, &str)]) -> Objects {
    Arc::new(move |_, resource, namespace, name| {
        let (.., json) = list.iter().find(|(r, ns, n, _)| (*r, *ns, *n) == (resource, namespace, name))?;
        Some(Bytes::from_static(json.as_bytes()))
    })
}

const ACCOUNT: (&str, &str, &str, &str) = ("serviceaccounts", "ns", "app", r#"{"metadata":{"name":"app","uid":"u1"}}"#);

fn request() -> TokenRequest {
    TokenRequest {
        namespace: "ns".into(),
        service_account: "app".into(),
        uid: "u1".into(),
        audiences: Vec::new(),
        expiration_seconds: 3600,
        bound: None,
        node: None,
    }
}

#[test]
fn a_token_proves_its_service_account() {
    let issuer = issuer_with(objects(&[ACCOUNT]));
    let signed = issuer.sign(&request()).unwrap();
    for _ in 0..2 {
        let (user, audiences) = issuer.authenticate(&signed.token, &[]).unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:app");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
        assert_eq!(audiences, signed.audiences);
    }
}

#[test]
fn tokens_that_prove_nothing() {
    static POD: &[(&str, &str, &str, &str)] = &[ACCOUNT, ("pods", "ns", "web", r#"{"metadata":{"uid":"p1"}}"#)];
    static GONE: &[(&str, &str, &str, &str)] =
        &[("serviceaccounts", "ns", "app", r#"{"metadata":{"uid":"u1","deletionTimestamp":"2020-01-01T00:00:00Z"}}"#)];
    let issuer = issuer_with(objects(POD));
    let pod = |uid: &str| TokenRequest {
        bound: Some(BoundObject { kind: "Pod".into(), name: "web".into(), uid: uid.into() }),
        ..request()
    };
    let sign = |request: &TokenRequest| issuer.sign(request).unwrap().token;
    assert!(issuer.authenticate(&sign(&pod("p1")), &[]).is_ok());
    let unbound = |error: &TokenError| matches!(error, TokenError::Unbound { .. });
    assert!(unbound(&issuer.authenticate(&sign(&pod("p2")), &[]).unwrap_err()), "another pod of that name");
    let other = TokenRequest { uid: "u2".into(), ..request() };
    assert!(unbound(&issuer.authenticate(&sign(&other), &[]).unwrap_err()), "another account of that name");
    let vault = TokenRequest { audiences: vec!["vault".into()], ..request() };
    assert!(matches!(issuer.authenticate(&sign(&vault), &[]), Err(TokenError::Audience(_))));
    assert_eq!(issuer.authenticate(&sign(&vault), &["vault".into(), "x".into()]).unwrap().1, ["vault"]);
    let mut forged = sign(&request());
    forged.replace_range(forged.len() - 4.., "AAAA");
    for token in [forged, issuer_with(objects(POD)).sign(&request()).unwrap().token, "a.b.c".into(), String::new()] {
        assert!(matches!(issuer.authenticate(&token, &[]), Err(TokenError::Invalid(_))), "{token}");
    }
    let deleted = issuer_with(objects(GONE));
    assert!(unbound(&deleted.authenticate(&deleted.sign(&request()).unwrap().token, &[]).unwrap_err()));
}
