//! Where a model is: at a path, or on the hub by an id, whence it is fetched if need be.

use std::path::{Path, PathBuf};

#[cfg(not(feature = "hub"))]
use crate::error::Error;
use crate::error::Result;

/// The folder or weight file of a model that is named by its path or by its id on the hub: `owner/name`, or
/// `owner/name/file.pt` for one file of a repository.
///
/// # Errors
/// Where there is no such path and it cannot be fetched.
pub fn locate(id_or_path: &Path, revision: Option<&str>) -> Result<PathBuf> {
    if id_or_path.exists() {
        return Ok(id_or_path.to_owned());
    }
    fetch(&id_or_path.display().to_string(), revision)
}

/// As [`locate`], of a text model: a repository need not hold more than that.
///
/// # Errors
/// As [`locate`].
pub fn locate_text(id_or_path: &Path) -> Result<PathBuf> {
    if id_or_path.exists() {
        return Ok(id_or_path.to_owned());
    }
    fetch_text(&id_or_path.display().to_string())
}

/// As [`locate`], of a T5 that writes captions.
///
/// # Errors
/// As [`locate`].
pub(crate) fn locate_caption_model(id_or_path: &Path, revision: Option<&str>) -> Result<PathBuf> {
    if id_or_path.is_dir() {
        return Ok(id_or_path.to_owned());
    }
    fetch_caption_model(&id_or_path.display().to_string(), revision)
}

#[cfg(feature = "hub")]
fn fetch(id: &str, revision: Option<&str>) -> Result<PathBuf> {
    match crate::hub::file_id(id) {
        Some((id, file)) => crate::hub::file(id, file, revision),
        None => crate::hub::folder(id, revision),
    }
}

#[cfg(feature = "hub")]
fn fetch_text(id: &str) -> Result<PathBuf> {
    match crate::hub::file_id(id) {
        Some((id, file)) => crate::hub::file(id, file, None),
        None => crate::hub::text_folder(id),
    }
}

#[cfg(feature = "hub")]
fn fetch_caption_model(id: &str, revision: Option<&str>) -> Result<PathBuf> {
    crate::hub::caption_model_folder(id, revision)
}

#[cfg(not(feature = "hub"))]
fn fetch_caption_model(id: &str, _: Option<&str>) -> Result<PathBuf> {
    let reason = "there is no such folder, and this program was built without the feature `hub`".to_owned();
    Err(Error::CaptionModel { id: id.to_owned(), reason })
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &str, _: Option<&str>) -> Result<PathBuf> {
    let reason = "there is no such path, and this program was built without the feature `hub`".to_owned();
    Err(Error::Hub { id: id.to_owned(), reason })
}

#[cfg(not(feature = "hub"))]
fn fetch_text(id: &str) -> Result<PathBuf> {
    fetch(id, None)
}
