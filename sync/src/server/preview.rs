//! Looking at a file without downloading it: images as pictures of a bounded size, made here; text, as
//! text; PDF by the browser's own viewer. Nothing of a user's bytes is ever sent as something that a
//! browser runs (trap 19): a picture is decoded and encoded again, text goes through the template, and a
//! PDF is sent as `application/pdf` only if it begins as one, with `nosniff`, never inside our pages.
//!
//! Decoding is bounded in pixels and memory, and two pictures are made at a time. Those that were made
//! are remembered by content hash and size, up to `CACHE_BYTES_MAX`.
use super::content::{self, insert, opened};
use super::http::{Answer, App, Failure, Who, blocking};
use super::pages::{Frame, Row, problem, show};
use super::web::{frame, page, to};
use crate::api::NodeInfo;
use crate::error::{Result, SyncError};
use crate::files::{Area, At};
use crate::tree::NodeId;
use askama::Template;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// So much of a text is shown.
const TEXT_BYTES_MAX: u64 = 256 << 10;
/// A picture with more pixels on a side is not decoded.
const SIDE_MAX: u32 = 20_000;
/// Memory for decoding one.
const DECODE_BYTES_MAX: u64 = 256 << 20;
/// A file larger than this is not decoded.
const FILE_BYTES_MAX: u64 = 64 << 20;
const CACHE_BYTES_MAX: usize = 32 << 20;
/// Sides of the pictures that are made: in lists, on a page.
const SIZES: [u32; 2] = [96, 1_280];

/// What a file can be shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A picture.
    Image,
    /// Text.
    Text,
    /// The browser's viewer.
    Pdf,
    /// Nothing.
    None,
}

/// What its name promises; the bytes are asked when it is shown.
#[must_use]
pub fn promised(name: &str) -> Shown {
    let ext = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    match ext.as_str() {
        "jpg" | "jpeg" | "png" | "gif" | "webp" => Shown::Image,
        "pdf" => Shown::Pdf,
        "txt" | "md" | "log" | "csv" | "json" | "toml" | "yaml" | "yml" | "xml" | "html"
        | "css" | "js" | "rs" | "py" | "c" | "h" | "cpp" | "sh" | "ini" | "conf" | "tex"
        | "svg" => Shown::Text,
        _ => Shown::None,
    }
}

/// A picture that was made: its type and bytes.
type Made = (&'static str, Bytes);

/// By the hash of the content, and the side.
type ByContent = HashMap<(String, u32), Made>;

/// Pictures that were made, and how many may be made at once.
#[derive(Debug)]
pub struct Thumbs {
    made: Mutex<(usize, ByContent)>,
    room: Arc<Semaphore>,
}

impl Default for Thumbs {
    fn default() -> Self {
        Self { made: Mutex::default(), room: Arc::new(Semaphore::new(2)) }
    }
}

impl Thumbs {
    fn get(&self, key: &(String, u32)) -> Option<Made> {
        self.made.lock().1.get(key).cloned()
    }

    fn put(&self, key: (String, u32), made: &Made) {
        let mut all = self.made.lock();
        if all.0 + made.1.len() > CACHE_BYTES_MAX {
            *all = Default::default();
        }
        all.0 += made.1.len();
        all.1.insert(key, made.clone());
    }
}

fn no_picture(e: impl std::fmt::Display) -> SyncError {
    SyncError::Invalid(format!("no picture of this: {e}"))
}

/// Makes a picture whose sides are at most `side`.
fn make(file: File, side: u32) -> Result<Made> {
    let mut reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(no_picture)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(no_picture)?;
    let turned = decoder.orientation().map_err(no_picture)?;
    if decoder.total_bytes() > DECODE_BYTES_MAX {
        return Err(no_picture("it is too large"));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(no_picture)?;
    image.apply_orientation(turned);
    if image.width() > side || image.height() > side {
        image = image.thumbnail(side, side);
    }
    let mut out = Cursor::new(Vec::new());
    let kind = if image.color().has_alpha() {
        image.to_rgba8().write_to(&mut out, ImageFormat::Png).map_err(no_picture)?;
        "image/png"
    } else {
        image.to_rgb8().write_to(&mut out, ImageFormat::Jpeg).map_err(no_picture)?;
        "image/jpeg"
    };
    Ok((kind, out.into_inner().into()))
}

/// A file that is open, with what is known of it.
fn open(who: &Who, id: NodeId) -> Result<(NodeInfo, File)> {
    let (node, path) = who.worker.store.lock().content_path(id, None)?;
    let file = who.worker.files.open_file(At(Area::Tree, &path))?;
    Ok((node, file))
}

/// `?side=`.
#[derive(Debug, Deserialize)]
pub struct Side {
    #[serde(default)]
    side: u32,
}

/// A picture of an image.
pub async fn thumb(
    State(app): State<App>,
    who: Who,
    Path(id): Path<NodeId>,
    Query(q): Query<Side>,
    headers: HeaderMap,
) -> Answer<Response> {
    let side = if q.side <= SIZES[0] { SIZES[0] } else { SIZES[1] };
    let (node, file) = blocking(move || open(&who, id)).await?;
    let etag = format!("\"{}-{side}\"", node.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    if known == Some(etag.as_str()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    if node.size > FILE_BYTES_MAX {
        return Err(Failure(no_picture("the file is too large")));
    }
    let key = (node.hash, side);
    let made = match app.thumbs.get(&key) {
        Some(made) => made,
        None => {
            let room = app.thumbs.room.clone().acquire_owned().await;
            let made = blocking(move || {
                let _room = room;
                make(file, side)
            })
            .await?;
            app.thumbs.put(key, &made);
            made
        }
    };
    let mut answer = Body::from(made.1).into_response();
    insert(&mut answer, header::CONTENT_TYPE, made.0);
    insert(&mut answer, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
    insert(&mut answer, header::CACHE_CONTROL, "private, no-cache");
    insert(&mut answer, header::ETAG, &etag);
    Ok(answer)
}

/// A file, looked at.
#[derive(Debug, Template)]
#[template(path = "view.html")]
pub struct View {
    frame: Frame,
    row: Row,
    parent: NodeId,
    /// A picture is shown.
    image: bool,
    /// The browser's viewer is offered.
    pdf: bool,
    /// A text, as far as it is shown.
    text: String,
    /// There is more of the text.
    cut: bool,
}

/// The beginning of a text; nothing if it is none.
fn text_of(file: &mut File) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|e| SyncError::io("read", e))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Some(text.to_owned())),
        // A letter that was cut in two.
        Err(e) if e.error_len().is_none() => {
            let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
            Ok(Some(String::from_utf8_lossy(good).into_owned()))
        }
        Err(_) => Ok(None),
    }
}

/// Looks at a file.
pub async fn view(who: Who, Path(id): Path<NodeId>) -> std::result::Result<Response, Response> {
    let shown = page(move || {
        let (node, mut file) = open(&who, id)?;
        let kind = promised(&node.name);
        let text = match kind {
            Shown::Image | Shown::Pdf => None,
            Shown::Text | Shown::None => text_of(&mut file)?,
        };
        let text = text.filter(|t| !t.contains('\0'));
        Ok(View {
            frame: frame(&who),
            row: Row::of(&node, node.name.clone()),
            parent: node.parent,
            image: kind == Shown::Image,
            pdf: kind == Shown::Pdf,
            cut: text.is_some() && node.size > TEXT_BYTES_MAX,
            text: text.unwrap_or_default(),
        })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// A PDF for the browser's own viewer; what does not begin as one is downloaded.
pub async fn pdf(who: Who, Path(id): Path<NodeId>, headers: HeaderMap) -> Answer<Response> {
    let found = blocking(move || {
        let (node, file) = open(&who, id)?;
        let mut begin = [0; 5];
        let is = std::os::unix::fs::FileExt::read_exact_at(&file, &mut begin, 0).is_ok()
            && &begin == b"%PDF-";
        Ok((is, opened(file, node.size, node.name, &node.hash)?))
    });
    let (is, opened) = found.await?;
    if !is {
        return Ok(to(&format!("/download/{id}")));
    }
    let mut answer = content::answer(opened, &headers)?;
    if answer.status().is_success() {
        let named = answer.headers().get(header::CONTENT_DISPOSITION).and_then(|v| v.to_str().ok());
        let inline = named.unwrap_or_default().replacen("attachment", "inline", 1);
        insert(&mut answer, header::CONTENT_DISPOSITION, &inline);
        insert(&mut answer, header::CONTENT_TYPE, "application/pdf");
        // A sandbox keeps viewers from working; there is nothing here that could run in our origin.
        let policy = "default-src 'none'; style-src 'unsafe-inline'; object-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
        insert(&mut answer, header::CONTENT_SECURITY_POLICY, policy);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn pictures_are_made_anew_and_bounded() {
        let mut png = Cursor::new(Vec::new());
        DynamicImage::new_rgba8(300, 100).write_to(&mut png, ImageFormat::Png).unwrap();
        let mut bytes = png.into_inner();
        bytes.extend_from_slice(b"<script>1</script>");
        let (kind, made) = make(file(&bytes), 96).unwrap();
        let again = image::load_from_memory(&made).unwrap();
        assert_eq!((kind, again.width(), again.height()), ("image/png", 96, 32));
        assert!(!made.windows(7).any(|w| w == b"<script"));
        let mut rgb = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(10, 20).write_to(&mut rgb, ImageFormat::Png).unwrap();
        let (kind, made) = make(file(rgb.get_ref()), 96).unwrap();
        let again = image::load_from_memory(&made).unwrap();
        assert_eq!((kind, again.width()), ("image/jpeg", 10), "never made larger");
        // A head that promises 60,000 x 60,000 pixels is refused before memory is taken.
        let mut bomb = rgb.into_inner();
        for at in [16, 20] {
            bomb[at..at + 4].copy_from_slice(&60_000_u32.to_be_bytes());
        }
        let crc = crc32fast::hash(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        for bad in [&bomb[..], b"", b"GIF89a", b"<svg onload=x>"] {
            assert!(make(file(bad), 96).is_err(), "{:?}", &bad[..bad.len().min(8)]);
        }
    }

    #[test]
    fn trap19_a_text_is_shown_as_far_as_it_is_one() {
        assert_eq!(text_of(&mut file("grün".as_bytes())).unwrap().as_deref(), Some("grün"));
        assert_eq!(text_of(&mut file(&[0x61, 0xff, 0x62])).unwrap(), None);
        let long = "ü".repeat(200 << 10);
        let shown = text_of(&mut file(&[b"a", long.as_bytes()].concat())).unwrap().unwrap();
        assert!(shown.len() as u64 <= TEXT_BYTES_MAX && shown.ends_with('ü'));
        assert_eq!(promised("a.JPG"), Shown::Image);
        assert_eq!([promised("x"), promised("a.svg")], [Shown::None, Shown::Text]);
    }
}
