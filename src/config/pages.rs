//! Floor 5. Pages for errors: small files, read when the config is, and answered from memory.

use crate::{Bytes, Response};
use std::path::Path;

/// A page read when the config was.
#[derive(Clone)]
pub(super) struct Page {
    content_type: String,
    content: Bytes,
}

impl Page {
    /// Longer pages belong in a folder.
    const LIMIT: u64 = 1 << 20;

    pub(super) fn read(path: &Path) -> std::io::Result<Page> {
        let content = super::read_regular(path, Page::LIMIT)?;
        Ok(Page {
            content_type: crate::service::files::content_type(&path.to_string_lossy()),
            content: content.into(),
        })
    }

    pub(super) fn answer(&self, res: Response<'_>) {
        res.header("content-type", &self.content_type)
            .header("x-content-type-options", "nosniff")
            .bytes(self.content.clone())
    }
}

/// The page for a status.
pub(super) fn find(pages: &[(u16, Page)], status: u16) -> Option<Page> {
    let page = pages.iter().find(|(known, _)| *known == status);
    page.map(|(_, page)| page.clone())
}
