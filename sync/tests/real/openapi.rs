//! The OpenAPI document against the server: the same routes with the same methods, both ways, and
//! bodies with the same fields as the types that travel.
use pvfs2_sync::api::{
    BatchOp, BatchReply, Changes, ContentHead, Delete, Exchange, LoggedIn, Login, LoginWithCode,
    Mkdir, Move, NodeInfo, RangesAsk, Restore, SignatureAsk, UploadBegin, UploadState, VersionInfo,
};
use pvfs2_sync::delta::Part;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::tree::Kind;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const METHODS: [&str; 4] = ["get", "put", "post", "delete"];

fn document() -> Value {
    serde_json::from_str(include_str!("../../openapi.json")).unwrap()
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
    let source = include_str!("../../src/server/http.rs");
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
    let agent = crate::common::agent(&server);
    let doc = document();
    let all = operations(&doc);
    let base = format!("https://{}{}", server.addr, doc["servers"][0]["url"].as_str().unwrap());
    for path in doc["paths"].as_object().unwrap().keys() {
        let uri = format!("{base}{}", path.replace("{id}", "1").replace("{rev}", "1"));
        let uri = uri.replace("{key}", "k").replace("{name}", "n");
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
        ("Login", json!(LoginWithCode { login, code: key.clone().into() })),
        ("LoggedIn", json!(LoggedIn { token: key.clone().into(), device: key.clone() })),
        ("Restore", json!(Restore { node: 5, version: Some(7) })),
        ("BatchReply", json!(reply)),
        ("SignatureAsk", json!(SignatureAsk { rev: 7, average: 1024, ranges: vec![(0, 1)] })),
        ("RangesAsk", json!(RangesAsk { rev: 7, ranges: vec![(0, 1)] })),
        ("ContentHead", json!(ContentHead { status: 200, size: 1, error: key.clone() })),
        ("Mkdir", op(BatchOp::Mkdir(mkdir))),
        ("Move", op(BatchOp::Move(moved))),
        ("Exchange", op(BatchOp::Exchange(swap))),
        ("Delete", op(BatchOp::Delete(delete))),
    ] {
        fits(&doc, name, &body);
    }
    // Its place is null as well as a number.
    let part = json!(Part { from: Some(1), size: 2 });
    let have = doc["components"]["schemas"]["Part"]["properties"].as_object().unwrap();
    assert!(have.keys().eq(part.as_object().unwrap().keys()));
    assert_eq!(
        doc["components"]["schemas"]["NodeInfo"]["properties"]["kind"]["enum"],
        json!([Kind::File, Kind::Dir])
    );
}

#[test]
fn management_answers_as_the_document_says_and_only_to_administrators() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("root"), dir.path().join("other"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&other).unwrap();
    let options =
        Options { begin: Begin::New, ..Options::new(root, "127.0.0.1:0".parse().unwrap()) };
    let server = Running::start(&options).unwrap();
    let (agent, doc) = (crate::common::agent(&server), document());
    let base = format!("https://{}/api/v1", server.addr);
    let token = |name: &str, admin| {
        let user = server.app.accounts.create(name, "correct horse", admin, None, 1).unwrap();
        let now = pvfs2_sync::server::users::now_ms();
        server.app.accounts.begin_session(user.id, "dev", now).unwrap().0
    };
    let (admin, ann) = (token("boss", true), token("ann", false));
    let ask = |token: &str, method: &str, path: &str, body: Value| -> (u16, Value) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        let mut answer = match method {
            "GET" => agent.run(request.body(()).unwrap()).unwrap(),
            _ => agent.run(request.body(body.to_string()).unwrap()).unwrap(),
        };
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    };
    let ended = || loop {
        let (_, jobs) = ask(&admin, "GET", "/admin/jobs", Value::Null);
        if jobs[0]["ended_ms"] != json!(0) {
            assert_eq!(jobs[0]["ok"], json!(true), "{}", jobs[0]);
            return jobs;
        }
        std::thread::yield_now();
    };
    let user =
        ask(&admin, "POST", "/admin/users", json!({"name": "bob", "password": "correct horse"}));
    assert_eq!(user.0, 200, "{user:?}");
    fits(&doc, "AdminUser", &user.1);
    let id = user.1["id"].as_i64().unwrap();
    let set =
        ask(&admin, "PUT", &format!("/admin/users/{id}"), json!({"quota": 5, "disabled": true}));
    assert_eq!((&set.1["quota"], &set.1["disabled"]), (&json!(5), &json!(true)));
    assert_eq!(ask(&admin, "POST", "/admin/backups", json!(["bob"])).0, 422, "no list");
    let own = ask(&admin, "PUT", "/admin/users/1", json!({"disabled": true}));
    assert_eq!(own.0, 400, "nobody keeps out themselves");
    let route = ask(&admin, "POST", "/admin/routes", json!({"name": "disk2", "path": other}));
    fits(&doc, "RouteInfo", &route.1);
    let job = ask(&admin, "POST", &format!("/admin/users/{id}/move"), json!({"route": 1}));
    assert_eq!(job.0, 202);
    fits(&doc, "Job", &job.1);
    ended();
    assert_eq!(ask(&admin, "DELETE", "/admin/routes/1", Value::Null).0, 409, "bob lies there");
    assert_eq!(ask(&admin, "POST", "/admin/backups", json!({"user": "bob"})).0, 202);
    ended();
    let backups = ask(&admin, "GET", "/admin/backups", Value::Null).1;
    fits(&doc, "Backup", &backups[0]);
    fits(&doc, "SavedStore", &backups[0]["users"][0]);
    let name = backups[0]["name"].as_str().unwrap().to_owned();
    for act in ["verify", "load"] {
        let path = format!("/admin/backups/{name}/{act}");
        assert_eq!(ask(&admin, "POST", &path, json!({})).0, 202);
        ended();
    }
    assert_eq!(ask(&admin, "DELETE", &format!("/admin/backups/{name}"), Value::Null).0, 202);
    ended();
    let opened = ask(&admin, "POST", "/admin/ports", json!({"address": "127.0.0.1:0"}));
    fits(&doc, "PortState", &opened.1[1]);
    let audit = ask(&admin, "GET", "/admin/audit?who=boss", Value::Null).1;
    fits(&doc, "AuditEntry", &audit[0]);
    let said = audit.to_string();
    for what in ["opened port", "done: move the store of bob to disk2", "made user bob"] {
        assert!(said.contains(what), "{what}: {said}");
    }
    fits(&doc, "Me", &ask(&ann, "GET", "/me", Value::Null).1);
    let key = ask(&ann, "POST", "/totp", Value::Null).1;
    fits(&doc, "TotpKey", &key);
    assert_eq!(ask(&ann, "POST", "/totp/on", json!({"code": "12"})).0, 401);
    assert_eq!(ask(&ann, "POST", "/totp/off", json!({"password": "wrong"})).0, 401);
    assert_eq!(ask(&ann, "POST", "/totp/off", json!({"password": "correct horse"})).0, 204);
    let mkdir = json!({"op": "mkdir", "parent": 1, "name": "d"});
    assert_eq!(ask(&ann, "POST", "/op", mkdir).0, 200);
    fits(&doc, "Activity", &ask(&ann, "GET", "/activity", Value::Null).1[0]);
    // For anybody else none of it is there.
    for (path, methods) in doc["paths"].as_object().unwrap() {
        if path.starts_with("/admin") {
            let path = path.replace("{id}", "1").replace("{name}", &name);
            for method in methods.as_object().unwrap().keys() {
                let body = json!({"name": "x", "path": "/", "password": "p", "route": 0,
                                  "address": "127.0.0.1:0", "user": ""});
                let got = ask(&ann, &method.to_uppercase(), &path, body);
                assert_eq!(got.0, 404, "{method} {path}");
            }
        }
    }
}
