//! What the scenarios ask of a container runtime, and the image that all containers are of.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use shunt_control_lab::{
    command::run,
    error::{LabError, Result},
    plan::TCP_PORT,
};

use crate::machine::Machine;

/// The image's name.
pub const IMAGE: &str = "localhost/lab:1";
/// Where containers serve their name over HTTP.
pub const PORT: u16 = 8080;
/// Programs of busybox that containers have.
const PROGRAMS: [&str; 7] = ["sh", "sleep", "timeout", "httpd", "ip", "nc", "tail"];

/// A container runtime that somebody else wrote. Calls may come from several threads.
pub trait Engine: Sync {
    /// Runs a container that serves its name at [`PORT`]. A `host_port` of the node leads there.
    fn start(&self, name: &str, host_port: Option<u16>) -> Result<()>;

    /// Runs a shell script in a container and returns what it prints.
    fn exec(&self, name: &str, script: &str) -> Result<String>;

    /// Stops and removes a container.
    fn remove(&self, name: &str) -> Result<()>;

    /// Removes all containers, whatever state they are in.
    fn sweep(&self) -> Result<()>;
}

/// What a container runs. It ends by itself, should nobody end it.
pub fn service(name: &str) -> [String; 3] {
    let script = format!("echo {name} > /index.html; exec timeout 300 httpd -f -p {PORT} -h /");
    ["/bin/sh".into(), "-c".into(), script]
}

/// The line of a container's script that asks for a name. It is no wget: busybox's ends with a fault where there are no
/// libraries to look names up.
pub fn ask(to: impl std::fmt::Display, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {to} {port} | tail -n 1")
}

/// The line of a container's script that shows what the lab's server of a pod or node says to everybody.
pub fn greeting(to: Ipv4Addr) -> String {
    format!("echo | timeout 2 nc -w 1 {to} {TCP_PORT} || true")
}

/// The image's files, as an archive.
pub fn files(machine: &Machine) -> Result<PathBuf> {
    let folder = machine.path("image");
    put_programs(machine, &folder)?;
    archive(machine, &folder)
}

/// Puts busybox into the folder of an image.
pub fn put_programs(machine: &Machine, folder: &Path) -> Result<()> {
    let failed = |source| LabError::File { path: folder.to_owned(), source };
    fs::create_dir_all(folder.join("bin")).map_err(failed)?;
    fs::copy(machine.peer("busybox")?, folder.join("bin/busybox")).map_err(failed)?;
    for program in PROGRAMS {
        symlink("busybox", folder.join("bin").join(program)).map_err(failed)?;
    }
    Ok(())
}

/// The folder of an image as an archive.
pub fn archive(machine: &Machine, folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let archive = machine.path(&format!("{name}.tar"));
    run(Command::new("tar").arg("--directory").arg(folder).arg("--create").arg("--file").arg(&archive).arg("."))?;
    Ok(archive)
}
