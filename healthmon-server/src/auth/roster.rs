//! The users and tokens of the settings in force, and what was lately found right of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::{sync::OnceCell, time::Instant};

use super::{
    AccessError, AccessRole, AccessSettings, ApiToken, PasswordHash, PrincipalName, Token, TokenHash, User,
    gate::{Basic, Checker, Refused, Standing},
    throttle::Peer,
};

/// How long a password that was right is taken as right without computing its hash again. That it
/// was right at all is known for as long as the settings say the same of its user.
const REMEMBERED: Duration = Duration::from_secs(60);
/// From how many places a user's name may be tried while others try it too often.
const PLACES: usize = 8;

/// Who asks, and what they proved it with.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    pub(crate) name: Option<PrincipalName>,
    pub(crate) role: AccessRole,
    proof: Proof,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// Nobody is asked.
    Nothing,
    Token(TokenHash),
    Password(PasswordHash),
}

impl Principal {
    /// What the log calls them.
    pub(crate) fn as_str(&self) -> &str {
        self.name.as_ref().map_or("anonymous", PrincipalName::as_str)
    }
}

/// A keyed hash of a name and a password.
type Tag = [u8; 32];

/// What is known of a user beyond the settings. It is the user's own, so that no mix-up can make
/// one's password another's.
#[derive(Clone, Default)]
struct Memory {
    /// The password that was right, and until when that holds without another look.
    right: Option<(Tag, Instant)>,
    /// Where it came from, the latest first.
    places: VecDeque<Peer>,
}

/// Right or wrong, or why that was not found out.
type Checked = Result<(), Refused>;

/// The users and tokens of the settings in force. It is replaced as a whole when they change; what
/// was remembered stays of users with the same password.
pub(super) struct Roster {
    pub(super) settings: AccessSettings,
    memory: Vec<Mutex<Memory>>,
    /// Checked in place of a user that there is not.
    decoy: Option<PasswordHash>,
    /// As long as a block of the hash.
    key: [u8; 64],
    /// Equal credentials that arrive together are checked once.
    under_way: Mutex<HashMap<Tag, Weak<OnceCell<Checked>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roster {
    pub(super) fn new(settings: AccessSettings) -> Result<Self, AccessError> {
        let mut key = [0; 64];
        getrandom::fill(&mut key).map_err(|_| AccessError::System)?;
        let memory = settings.users.iter().map(|_| Mutex::default()).collect();
        let decoy = PasswordHash::decoy(settings.users.iter().map(|user| &user.password_hash));
        Ok(Self { settings, memory, decoy, key, under_way: Mutex::default() })
    }

    /// The roster of the settings that come after these.
    pub(super) fn followed_by(&self, settings: AccessSettings) -> Self {
        let kept = |user: &User| {
            let mut known = self.settings.users.iter().zip(&self.memory);
            let same = known.find(|(it, _)| it.name == user.name && it.password_hash == user.password_hash);
            same.map(|(_, memory)| lock(memory).clone()).unwrap_or_default()
        };
        let memory = settings.users.iter().map(|user| Mutex::new(kept(user))).collect();
        let decoy = PasswordHash::decoy(settings.users.iter().map(|user| &user.password_hash));
        Self { settings, memory, decoy, key: self.key, under_way: Mutex::default() }
    }

    /// Everyone, where nobody is asked who they are.
    pub(super) fn anonymous(&self) -> Option<Principal> {
        let everyone = Principal { name: None, role: AccessRole::Admin, proof: Proof::Nothing };
        (!self.settings.is_authenticated()).then_some(everyone)
    }

    /// Whether the settings still say of someone what they said when they came.
    pub(super) fn still(&self, principal: &Principal) -> bool {
        let Some(name) = &principal.name else { return !self.settings.is_authenticated() };
        let user = |user: &User| Proof::Password(user.password_hash.clone()) == principal.proof;
        let token = |token: &ApiToken| Proof::Token(token.sha256) == principal.proof;
        let (users, tokens) = (&self.settings.users, &self.settings.tokens);
        users.iter().any(|it| it.name == *name && it.role == principal.role && user(it))
            || tokens.iter().any(|it| it.name == *name && it.role == principal.role && token(it))
    }

    /// Whose token this is. Takes equally long whichever it is.
    pub(super) fn token(&self, token: &Token) -> Result<Principal, Refused> {
        let hash = token.hash();
        let mut found = None;
        for known in &self.settings.tokens {
            if bool::from(known.sha256.ct_eq(&hash)) {
                found = Some(known);
            }
        }
        let known = found.ok_or(Refused::Wrong)?;
        Ok(Principal { name: Some(known.name.clone()), role: known.role, proof: Proof::Token(known.sha256) })
    }

    /// Checks a name and a password.
    pub(super) async fn password(&self, basic: &Basic, peer: Peer, checker: &Checker) -> Result<Principal, Refused> {
        let tag = self.tag(&basic.name, basic.password.expose());
        let user = self.settings.users.iter().zip(&self.memory).find(|(user, _)| user.name.as_str() == basic.name);
        if !user.is_some_and(|(_, memory)| lock(memory).is_fresh(&tag)) {
            let standing = user.map_or(Standing::New, |(_, memory)| lock(memory).standing(&tag, peer));
            let cell = self.under_way(tag);
            let hash = user.map_or(self.decoy.as_ref(), |(user, _)| Some(&user.password_hash));
            (*cell.get_or_init(async || checker.check(basic, hash, peer, standing).await).await)?;
        }
        // The decoy matches nothing; were it to, there is still nobody of that name.
        let (user, memory) = user.ok_or(Refused::Wrong)?;
        lock(memory).remember(tag, peer);
        let proof = Proof::Password(user.password_hash.clone());
        Ok(Principal { name: Some(user.name.clone()), role: user.role, proof })
    }

    /// Lengths go in too, so that no two pairs of name and password are the same bytes.
    fn tag(&self, name: &str, password: &str) -> Tag {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        for part in [name, password] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    fn under_way(&self, tag: Tag) -> Arc<OnceCell<Checked>> {
        let mut under_way = lock(&self.under_way);
        if let Some(cell) = under_way.get(&tag).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::new(OnceCell::new());
        under_way.retain(|_, cell| cell.strong_count() > 0);
        under_way.insert(tag, Arc::downgrade(&cell));
        cell
    }
}

impl Memory {
    /// Whether this was right, not long ago.
    fn is_fresh(&self, tag: &Tag) -> bool {
        self.was_right(tag).is_some_and(|until| until > Instant::now())
    }

    fn standing(&self, tag: &Tag, peer: Peer) -> Standing {
        match () {
            () if self.was_right(tag).is_some() => Standing::Known,
            () if self.places.contains(&peer) => Standing::Usual,
            () => Standing::New,
        }
    }

    /// If this was right: until when it is without another look.
    fn was_right(&self, tag: &Tag) -> Option<Instant> {
        self.right.as_ref().filter(|(right, _)| bool::from(right.ct_eq(tag))).map(|(_, until)| *until)
    }

    fn remember(&mut self, tag: Tag, peer: Peer) {
        if !self.is_fresh(&tag) {
            self.right = Some((tag, Instant::now() + REMEMBERED));
        }
        self.places.retain(|place| *place != peer);
        self.places.push_front(peer);
        self.places.truncate(PLACES);
    }
}
