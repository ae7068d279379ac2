//! Floor 4. Files below one folder, and none outside it.
//!
//! ```text
//! path ─► may it be served? ─► file, index ─┬─ found ───────────► answer.rs: 200, 206, 304, 406, 412, 416
//!              │                            ├─ a directory ─────► with a slash; or listing.rs
//!              └─ no ─► 404                 └─ nothing ─► try_files ─► found, or 404
//! ```
//! Invariant: no name reaches the disk that `names::is_servable` has not let pass, but those of
//! the embedder's own settings.

mod answer;
mod cache;
mod conditional;
#[doc(hidden)]
pub mod fuzzing;
mod listing;
mod names;
mod negotiation;
mod range;

use crate::{App, Ctx, OffloadError, Request, Response, StatusCode, StatusError};
use cache::{Cache, Entry, Found, Now};
#[cfg(feature = "config")]
pub(crate) use names::content_type;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

/// A folder to serve with GET and HEAD (RFC 9110 §9.3): index files, media types, entity tags and
/// conditional requests (§13), ranges (§14), compressed siblings (§12.5.3), and, if asked to,
/// listings. Names that begin with a dot are hidden, but for `.well-known`. A large file (over 64 KiB)
/// is sent by the kernel; a small one is kept in memory, and looked at again in each turn of the
/// loop that serves it. `docs/files.md` has all of it.
///
/// ```
/// use loopwright::{App, service::files::Files};
/// let mut app: App = App::new();
/// let files = Files::new(".").unwrap()
///     .index(["index.html"])
///     .try_files(["{path}.html", "/index.html"])
///     .cache_control("assets/*", "max-age=31536000, immutable")
///     .cache_control("*", "no-cache")
///     .error_page(404, "/404.html");
/// files.mount(&mut app, "/static");
/// ```
pub struct Files {
    cache: Cache,
    index: Vec<String>,
    listing: bool,
    precompressed: bool,
    cache_control: Vec<(String, String)>,
    try_files: Vec<String>,
    error_pages: Vec<(u16, String)>,
}

/// What a path comes to.
enum Target {
    File(Rc<Entry>),
    /// A directory, asked for without its slash.
    Slash,
    Listing(OwnedFd),
    Nothing,
}

impl Files {
    /// The files below `root`. A process that serves them needs one more descriptor for each large
    /// file that is kept open, 32 at most.
    ///
    /// # Errors
    /// If `root` is not a directory that can be opened, or the kernel (before Linux 5.6) or a sandbox
    /// has no `openat2`, without which nothing can be promised.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// assert!(Files::new("src").is_ok());
    /// assert!(Files::new("Cargo.toml").is_err());
    /// ```
    pub fn new(root: impl AsRef<Path>) -> io::Result<Files> {
        Ok(Files {
            cache: Cache::new(root.as_ref())?,
            index: vec!["index.html".to_string()],
            listing: false,
            precompressed: true,
            cache_control: Vec::new(),
            try_files: Vec::new(),
            error_pages: Vec::new(),
        })
    }

    /// What a directory is answered with: the first of these that it has. Default `index.html`.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// let files = Files::new(".").unwrap().index(["index.html", "index.txt"]);
    /// ```
    pub fn index<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.index = names.into_iter().map(Into::into).collect();
        self
    }

    /// Whether a directory without an index is answered with what it holds: HTML, or JSON for clients
    /// whose `accept` prefers it. Names that would not be served are left out; 10,000 entries at
    /// most. The directory is read on another thread. Default `false`: such a directory is 404.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// let files = Files::new(".").unwrap().listing(true);
    /// ```
    pub fn listing(mut self, on: bool) -> Self {
        self.listing = on;
        self
    }

    /// Whether `a.css.br`, `a.css.zst` and `a.css.gz` are sent instead of `a.css` to clients that
    /// accept the coding (RFC 9110 §12.5.3). A sibling that appears is noticed within a second. Its
    /// age is not compared with the file's: who writes one writes the others. Default `true`.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// let files = Files::new(".").unwrap().precompressed(false);
    /// ```
    pub fn precompressed(mut self, on: bool) -> Self {
        self.precompressed = on;
        self
    }

    /// The `cache-control` (RFC 9111 §5.2) of the files whose path below the root is of the form
    /// `pattern`, in which `*` is any run of characters, `/` included. Of several rules the first that
    /// matches counts. The path is that of the file that is sent: `/` is `index.html`. A listing's
    /// ends in a slash, and is empty for the root.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// let files = Files::new(".").unwrap()
    ///     .cache_control("assets/*", "max-age=31536000, immutable")
    ///     .cache_control("*.html", "no-cache");
    /// ```
    pub fn cache_control(mut self, pattern: impl Into<String>, value: impl Into<String>) -> Self {
        self.cache_control.push((pattern.into(), value.into()));
        self
    }

    /// Where a path names no file and no directory that can be answered, the first of these that names
    /// a file is answered instead, with 200. `{path}` is the path below the root, without a slash at
    /// its end. Paths that are hidden or malformed stay 404.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// // `/about` is `about.html`; whatever else is not there, the application makes something of it.
    /// let files = Files::new(".").unwrap().try_files(["{path}.html", "/index.html"]);
    /// ```
    pub fn try_files<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.try_files = names.into_iter().map(Into::into).collect();
        self
    }

    /// The page for a status that this service answers with (403, 404, 406, 412, 416, 500): a file
    /// below the root, which may have a hidden name. The status stays. Without one, 403, 404 and 500 are
    /// what [`App::on_error`] makes of them, else plain text.
    ///
    /// ```
    /// use loopwright::service::files::Files;
    /// let files = Files::new(".").unwrap().error_page(404, "/404.html");
    /// ```
    pub fn error_page(mut self, status: u16, path: impl AsRef<str>) -> Self {
        let path = path.as_ref().trim_start_matches('/').to_string();
        self.error_pages.retain(|(known, _)| *known != status);
        self.error_pages.push((status, path));
        self
    }

    /// Serves the folder under a prefix (`""` for the whole host).
    ///
    /// ```
    /// use loopwright::{App, service::files::Files};
    /// let mut app: App = App::new();
    /// Files::new(".").unwrap().mount(&mut app, "/static");
    /// ```
    pub fn mount<S: 'static>(self, app: &mut App<S>, prefix: &str) {
        if !prefix.is_empty() {
            app.get(prefix, |_, req: &Request<'_>, res: Response<'_>| {
                add_slash(req, res)
            });
        }
        app.get(&format!("{prefix}/{{*path}}"), self.handler("path"));
    }

    /// A handler for a route whose parameter `param` is the path below the root.
    ///
    /// ```
    /// use loopwright::{App, service::files::Files};
    /// let mut app: App = App::new();
    /// app.get("/static/{*rest}", Files::new(".").unwrap().handler("rest"));
    /// ```
    pub fn handler<S: 'static>(
        mut self,
        param: impl Into<String>,
    ) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> Result<(), StatusError> + 'static
    {
        let param = param.into();
        move |cx, req, res| self.serve(cx, req.param(&param), req, res)
    }

    fn serve<S: 'static>(
        &mut self,
        cx: &mut Ctx<'_, S>,
        path: &str,
        req: &Request<'_>,
        res: Response<'_>,
    ) -> Result<(), StatusError> {
        let now = (cx.now(), cx.wall_clock());
        if !names::is_servable(path) || names::has_encoded_slash(req.path(), path) {
            return self.fail(now, 404, res);
        }
        match self.resolve(now, path) {
            Ok(Target::File(entry)) => self.answer(now, entry, req, res),
            Ok(Target::Slash) => add_slash(req, res),
            Ok(Target::Listing(directory)) => self.list(cx, path, directory, req, res),
            Ok(Target::Nothing) => return self.fail(now, 404, res),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                log::debug!("{}: may not read {path:?}", req.id());
                return self.fail(now, 403, res);
            }
            Err(e) => {
                log::error!("{}: cannot serve {path:?}: {e}", req.id());
                return self.fail(now, 500, res);
            }
        }
        Ok(())
    }

    fn resolve(&mut self, now: Now, path: &str) -> io::Result<Target> {
        if path.is_empty() || path.ends_with('/') {
            for name in &self.index {
                if let Found::File(entry) = self.cache.find_joined(now, path, name)? {
                    return Ok(Target::File(entry));
                }
            }
            if self.listing
                && let Some(directory) = self.cache.open_directory(path)?
            {
                return Ok(Target::Listing(directory));
            }
        } else {
            match self.cache.find(now, path)? {
                Found::File(entry) => return Ok(Target::File(entry)),
                Found::Directory => return Ok(Target::Slash),
                Found::Nothing => {}
            }
        }
        let path = path.trim_end_matches('/');
        for template in &self.try_files {
            let name = template.replace("{path}", path);
            let name = name.trim_start_matches('/');
            // `{path}.html` of the root would be a hidden name.
            if names::is_servable(name)
                && let Found::File(entry) = self.cache.find(now, name)?
            {
                return Ok(Target::File(entry));
            }
        }
        Ok(Target::Nothing)
    }

    fn list<S: 'static>(
        &self,
        cx: &mut Ctx<'_, S>,
        path: &str,
        directory: OwnedFd,
        req: &Request<'_>,
        res: Response<'_>,
    ) {
        let wanted = listing::Wanted::new(path, req);
        let cache_control = self
            .cache_control_of(path)
            .unwrap_or("no-cache")
            .to_string();
        let (root, id, res) = (self.cache.root(), req.id(), res.defer());
        let work = move || listing::write(&root, directory, wanted);
        cx.offload(work, move |_, page| match page {
            Ok(Ok(page)) => res
                .header("content-type", page.content_type)
                .header("content-security-policy", listing::POLICY)
                .header("x-content-type-options", "nosniff")
                .header("cache-control", cache_control)
                .header("vary", "accept")
                .bytes(page.text),
            Ok(Err(e)) => {
                log::error!("{id}: cannot list a directory: {e}");
                res.status(500).text("Internal Server Error")
            }
            Err(OffloadError::Full) => res.status(503).text("Service Unavailable"),
            Err(OffloadError::Panicked) => res.status(500).text("Internal Server Error"),
        });
    }

    /// There is no file to speak of: answers with the status's page, or leaves it to the App's.
    fn fail(&mut self, now: Now, status: u16, res: Response<'_>) -> Result<(), StatusError> {
        match self.error_page_for(now, status) {
            Some(_) => {
                self.refuse(now, status, res);
                Ok(())
            }
            None => Err(StatusError::new(status, reason(status))),
        }
    }

    /// Answers with a status, what has been said with it, and its page if it has one.
    fn refuse(&mut self, now: Now, status: u16, res: Response<'_>) {
        let res = res.status(status);
        match self.error_page_for(now, status) {
            Some(page) => res
                .header("content-type", &page.content_type)
                .header("x-content-type-options", "nosniff")
                .bytes(page.content.whole()),
            None => res.text(reason(status)),
        }
    }

    fn error_page_for(&mut self, now: Now, status: u16) -> Option<Rc<Entry>> {
        let (_, path) = self
            .error_pages
            .iter()
            .find(|(known, _)| *known == status)?;
        match self.cache.find(now, path) {
            Ok(Found::File(page)) => Some(page),
            _ => None,
        }
    }
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default()
}

/// `/a` is a directory: relative links in it work from `/a/`. The path is the one that was asked
/// for, so it begins with exactly one slash and cannot name another host.
fn add_slash(req: &Request<'_>, res: Response<'_>) {
    let query = req
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    res.redirect(
        301,
        format!("/{}/{query}", req.path().trim_start_matches('/')),
    )
}
