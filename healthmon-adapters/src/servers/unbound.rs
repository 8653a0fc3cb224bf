use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Den, free_port, missing};

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A name server of one's own (unbound), which knows what it is told and asks nobody.
#[derive(Debug)]
pub struct PrivateUnbound {
    den: Den,
    port: u16,
    tls_port: Option<u16>,
    child: Child,
}

/// What a [`PrivateUnbound`] is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnboundSetup<'a> {
    /// Lines of the clause `server` of its configuration, such as `local-data: "a.test. A 192.0.2.1"`.
    pub server: &'a str,
    /// Clauses of their own.
    pub clauses: &'a str,
    /// Files beside the configuration, by name.
    pub files: &'a [(&'a str, &'a str)],
    /// The certificate and key (PEM) for DNS over TLS, if that is wanted.
    pub tls: Option<(&'a str, &'a str)>,
}

impl PrivateUnbound {
    /// Starts it. Names that it is not told of do not exist.
    ///
    /// # Errors
    /// When unbound is not installed or does not start.
    pub fn start(setup: UnboundSetup<'_>) -> io::Result<Self> {
        let den = Den::new("unbound")?;
        let port = free_port()?;
        let tls_port = setup.tls.map(|_| free_port()).transpose()?;
        for (name, text) in setup.files {
            fs::write(den.path(name), text)?;
        }
        let folder = den.folder.display();
        let mut config = format!(
            "server:\n interface: 127.0.0.1@{port}\n directory: \"{folder}\"\n chroot: \"\"\n username: \"\"\n \
             pidfile: \"{folder}/unbound.pid\"\n logfile: \"{folder}/unbound.log\"\n use-syslog: no\n \
             do-daemonize: no\n num-threads: 1\n so-reuseport: no\n do-ip6: no\n do-not-query-localhost: no\n \
             access-control: 127.0.0.0/8 allow\n local-zone: \".\" static\n{}\n",
            setup.server
        );
        if let (Some((certificate, key)), Some(tls)) = (setup.tls, tls_port) {
            fs::write(den.path("tls.pem"), certificate)?;
            fs::write(den.path("tls.key"), key)?;
            config.push_str(&format!(
                " interface: 127.0.0.1@{tls}\n tls-port: {tls}\n tls-service-pem: \"{folder}/tls.pem\"\n \
                 tls-service-key: \"{folder}/tls.key\"\n"
            ));
        }
        config.push_str("remote-control:\n control-enable: no\n");
        config.push_str(setup.clauses);
        fs::write(den.path("unbound.conf"), config)?;
        // Debian puts it where an ordinary user's PATH does not lead.
        let debians = Path::new("/usr/sbin/unbound");
        let mut command = Command::new(if debians.exists() { debians } else { Path::new("unbound") });
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg("-d").arg("-c").arg(den.path("unbound.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(den.path("unbound.err"))?);
        let child = command.spawn().map_err(|error| missing(&command, &error))?;
        let mut server = Self { den, port, tls_port, child };
        server.wait()?;
        Ok(server)
    }

    /// Where it answers, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its port for DNS over TLS, if it has one.
    pub const fn tls_port(&self) -> Option<u16> {
        self.tls_port
    }

    fn wait(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let said = ["unbound.err", "unbound.log"].map(|name| fs::read_to_string(self.den.path(name)));
                let said: String = said.into_iter().flatten().collect();
                return Err(io::Error::other(format!("unbound ended with {status}: {said}")));
            }
            if self.answers() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other("unbound does not answer"));
            }
        }
    }

    /// Whether it answers a question for the address of the root, whatever the answer.
    fn answers(&self) -> bool {
        const QUESTION: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        let asked = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| {
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            socket.connect(self.address())?;
            socket.send(&QUESTION)?;
            socket.recv(&mut [0; 512])
        });
        if asked.is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        asked.is_ok()
    }
}

impl Drop for PrivateUnbound {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::warn!(%error, "a private unbound may be left over");
        }
    }
}
