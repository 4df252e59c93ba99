//! The OpenAPI document against the server: the same routes with the same methods, both ways, and
//! bodies with the same fields as the types that travel.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
mod common;

use pvfs2_sync::api::{
    BatchOp, BatchReply, Changes, Delete, Exchange, LoggedIn, Login, Mkdir, Move, NodeInfo,
    Restore, UploadBegin, UploadState, VersionInfo,
};
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::tree::Kind;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const METHODS: [&str; 4] = ["get", "put", "post", "delete"];

fn document() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).unwrap()
}

/// Method and path of each operation of the document.
fn operations(doc: &Value) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for (path, methods) in doc["paths"].as_object().unwrap() {
        all.extend(methods.as_object().unwrap().keys().map(|m| (m.clone(), path.clone())));
    }
    all
}

#[test]
fn the_document_has_the_routes_of_the_source() {
    let source = include_str!("../src/server/http.rs");
    let api = source.split("let api = Router::new()").nth(1).unwrap();
    let api = api.split("let pages").next().unwrap();
    let mut routes = BTreeSet::new();
    for route in api.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        for method in METHODS {
            if route.contains(&format!("{method}(")) {
                routes.insert((method.to_owned(), path.to_owned()));
            }
        }
    }
    assert!(routes.len() > 20, "{routes:?}");
    assert_eq!(routes, operations(&document()));
}

#[test]
fn the_server_answers_what_the_document_says_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        begin: Begin::New,
        ..Options::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap())
    };
    let server = Running::start(&options).unwrap();
    let agent = common::agent(&server);
    let doc = document();
    let all = operations(&doc);
    let base = format!("https://{}{}", server.addr, doc["servers"][0]["url"].as_str().unwrap());
    for path in doc["paths"].as_object().unwrap().keys() {
        let uri = format!("{base}{}", path.replace("{id}", "1").replace("{rev}", "1"));
        let uri = uri.replace("{key}", "k");
        for method in METHODS {
            let request = ureq::http::Request::builder().method(method.to_uppercase().as_str());
            let answer = agent.run(request.uri(&uri).body(()).unwrap()).unwrap();
            let known = all.contains(&(method.to_owned(), path.clone()));
            let open = doc["paths"][path][method]["security"].is_array();
            let status = answer.status().as_u16();
            match (known, open) {
                (false, _) => assert_eq!(status, 405, "{method} {path}"),
                (true, false) => assert_eq!(status, 401, "{method} {path}"),
                (true, true) => assert!(matches!(status, 200 | 415), "{method} {path}: {status}"),
            }
        }
    }
    let mut served = agent.get(format!("{base}/openapi.json")).call().unwrap();
    let text = served.body_mut().read_to_string().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), doc);
}

/// Whether a body has exactly the fields of a schema.
fn fits(doc: &Value, name: &str, body: &Value) {
    let schema = &doc["components"]["schemas"][name];
    let want: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
    let have: BTreeSet<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(want, have, "{name}");
    for (field, value) in body.as_object().unwrap() {
        let kind = &schema["properties"][field]["type"];
        let right = match kind.as_str() {
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some(other) => panic!("{name}.{field}: {other}"),
            None => true,
        };
        assert!(right, "{name}.{field}: {value} is no {kind}");
    }
}

#[test]
fn bodies_have_the_fields_of_the_document() {
    let doc = document();
    let node = NodeInfo {
        id: 5,
        parent: 1,
        name: "n".into(),
        kind: Kind::Dir,
        size: 0,
        mtime_ns: -1,
        exec: false,
        hash: String::new(),
        rev: 7,
        deleted: false,
    };
    let (name, key) = (String::from("n"), String::from("k"));
    let op = |op: BatchOp| serde_json::to_value(op).unwrap();
    let changes = Changes { epoch: key.clone(), next: 7, more: false, nodes: vec![node.clone()] };
    let begin = UploadBegin {
        id: key.clone(),
        parent: 1,
        name: name.clone(),
        replace: Some((5, 7)),
        size: 1,
        hash: String::new(),
        mtime_ns: 0,
        exec: true,
    };
    let version = VersionInfo { rev: 1, size: 1, mtime_ns: 1, hash: key.clone(), at_ms: 1 };
    let login = Login { user: name.clone(), password: key.clone().into(), device: key.clone() };
    let mkdir = Mkdir { parent: 1, name: name.clone(), key: key.clone() };
    let moved = Move { node: 5, rev: 7, parent: 1, name: name.clone(), key: key.clone() };
    let swap = Exchange { a: (5, 7), b: (6, 8), key: key.clone() };
    let delete = Delete { node: 5, rev: 7, tree: true, key: key.clone() };
    let reply = BatchReply { status: 200, node: Some(node.clone()), error: String::new() };
    for (name, body) in [
        ("NodeInfo", json!(node)),
        ("Changes", json!(changes)),
        ("UploadBegin", json!(begin)),
        ("UploadState", json!(UploadState { offset: 1 })),
        ("VersionInfo", json!(version)),
        ("Login", json!(login)),
        ("LoggedIn", json!(LoggedIn { token: key.clone().into(), device: key.clone() })),
        ("Restore", json!(Restore { node: 5, version: Some(7) })),
        ("BatchReply", json!(reply)),
        ("Mkdir", op(BatchOp::Mkdir(mkdir))),
        ("Move", op(BatchOp::Move(moved))),
        ("Exchange", op(BatchOp::Exchange(swap))),
        ("Delete", op(BatchOp::Delete(delete))),
    ] {
        fits(&doc, name, &body);
    }
    assert_eq!(
        doc["components"]["schemas"]["NodeInfo"]["properties"]["kind"]["enum"],
        json!([Kind::File, Kind::Dir])
    );
}
