//! The socket's file: it appears complete, is for its owner alone, takes the place of a stale one, and goes at the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listening Unix socket. Dropping it removes the file, if it is still this socket's.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    identity: (u64, u64),
    listener: UnixListener,
}

impl Socket {
    /// Listens on `path`. The family's router connects as soon as there is a file, so that the socket is made under another
    /// name and renamed when it listens.
    pub fn bind(path: &Path) -> Result<Socket, String> {
        let failed = |what: &str, error: io::Error| format!("--uds-path {}: {what}: {error}", path.display());
        check_free(path)?;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let part = folder.join(format!(".bei-{}", std::process::id()));
        let _ = fs::remove_file(&part); // of a process that had this number
        let listener =
            UnixListener::bind(&part).map_err(|error| failed("cannot listen in its folder", error))?;
        let made = (|| {
            fs::set_permissions(&part, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            let metadata = fs::metadata(&part)?;
            fs::rename(&part, path)?;
            Ok((metadata.dev(), metadata.ino()))
        })();
        match made {
            Ok(identity) => Ok(Socket { path: path.to_path_buf(), identity, listener }),
            Err(error) => {
                let _ = fs::remove_file(&part);
                Err(failed("cannot make the socket", error))
            }
        }
    }

    /// The listener, for another owner of the same socket.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A stale socket may be replaced; a server that listens and a file of another kind may not.
fn check_free(path: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let path = path.display();
    if !metadata.file_type().is_socket() {
        return Err(format!("--uds-path {path} exists and is no socket; remove it or choose another path"));
    }
    match UnixStream::connect(path.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("--uds-path {path} exists and cannot be replaced: {error}")),
        Ok(_) => {
            Err(format!("--uds-path {path}: another server listens there; stop it or choose another path"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_appears_listening_for_its_owner_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = Socket::bind(&path).unwrap_err();
        assert!(error.contains("another server listens"), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Socket::bind(&path).unwrap();
        // Whoever replaces the file keeps it.
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(second);

        fs::write(&path, "text").unwrap();
        assert!(Socket::bind(&path).unwrap_err().contains("is no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        assert!(Socket::bind(Path::new("/nowhere/socket")).unwrap_err().contains("/nowhere/socket"));
    }
}
