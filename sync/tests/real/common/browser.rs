//! A browser, as far as links and forms go: cookies and Origin, no JavaScript.
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};

pub struct Browser {
    pub agent: ureq::Agent,
    pub url: String,
    pub origin: Option<String>,
    pub cookie: String,
}

pub struct Got {
    pub status: u16,
    pub location: String,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Browser {
    pub fn new(server: &Running) -> Self {
        let agent = super::agent(server);
        let url = format!("https://{}", server.addr);
        Self { agent, origin: Some(url.clone()), url, cookie: String::new() }
    }

    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> Got {
        let mut r = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("cookie", &self.cookie);
        if method == "POST" {
            r = r.header("content-type", kind);
            if let Some(origin) = &self.origin {
                r = r.header("origin", origin);
            }
        }
        for (k, v) in more {
            r = r.header(*k, *v);
        }
        let mut answer = if method == "GET" {
            self.agent.run(r.body(ureq::SendBody::none()).unwrap()).unwrap()
        } else {
            self.agent.run(r.body(body).unwrap()).unwrap()
        };
        if let Some(set) = answer.headers().get("set-cookie") {
            let set = set.to_str().unwrap();
            for flag in ["__Host-", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"] {
                assert!(set.contains(flag), "{set}");
            }
            self.cookie = set.split(';').next().unwrap().to_owned();
        }
        let location = answer.headers().get("location");
        Got {
            status: answer.status().as_u16(),
            location: location.map_or(String::new(), |l| l.to_str().unwrap().to_owned()),
            headers: answer.headers().clone(),
            text: answer.body_mut().read_to_string().unwrap(),
        }
    }

    pub fn get(&mut self, path: &str) -> Got {
        self.ask("GET", path, "", &[], b"")
    }

    /// Status and bytes.
    pub fn get_bytes(&mut self, path: &str) -> (u16, Vec<u8>) {
        let r = ureq::http::Request::get(format!("{}{path}", self.url));
        let r = r.header("cookie", &self.cookie).body(()).unwrap();
        let mut answer = self.agent.run(r).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
    }

    pub fn post(&mut self, path: &str, form: &str) -> Got {
        self.ask("POST", path, "application/x-www-form-urlencoded", &[], form.as_bytes())
    }

    /// Without taking the cookie over.
    pub fn plain_post(&mut self, path: &str, form: &str) -> Got {
        let mut r = ureq::http::Request::post(format!("{}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(origin) = &self.origin {
            r = r.header("origin", origin);
        }
        let mut answer = self.agent.run(r.body(form).unwrap()).unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.body_mut().read_to_string().unwrap();
        Got { status, location: String::new(), headers, text }
    }

    pub fn upload(&mut self, dir: i64, name: &str, bytes: &str) -> Got {
        self.upload_bytes(dir, name, bytes.as_bytes())
    }

    pub fn upload_bytes(&mut self, dir: i64, name: &str, bytes: &[u8]) -> Got {
        let head = format!(
            "--B\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{name}\"\r\n\r\n"
        );
        let body = [head.as_bytes(), bytes, b"\r\n--B--\r\n"].concat();
        let path = format!("/files/{dir}/upload");
        self.ask("POST", &path, "multipart/form-data; boundary=B", &[], &body)
    }
}

pub fn server(dir: &std::path::Path) -> Running {
    let options = Options {
        signup: Some(Some(1 << 20)),
        begin: Begin::IfEmpty,
        ..Options::new(dir.to_owned(), "127.0.0.1:0".parse().unwrap())
    };
    Running::start(&options).unwrap()
}

/// The number of the node whose link has this text before it.
pub fn id_before(text: &str, link: &str, name: &str) -> i64 {
    let end = text.find(&format!("\">{name}")).unwrap_or_else(|| panic!("{name} in {text}"));
    let start = text[..end].rfind(link).unwrap() + link.len();
    text[start..end].parse().unwrap()
}
