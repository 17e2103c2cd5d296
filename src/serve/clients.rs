//! [`ClientPlaces`]: how many connections each client has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum numbers of connections of one client.
#[derive(Clone, Copy)]
pub(super) struct ClientLimits {
    /// Of another machine.
    pub remote: u32,
    /// Of this machine, where a proxy may stand for many clients.
    pub local: u32,
}

/// Counts the open connections of each client. A client is an address, or a network of IPv6: one machine has as many
/// addresses there as it likes.
pub(super) struct ClientPlaces {
    limits: ClientLimits,
    open: Mutex<HashMap<IpAddr, u32>>,
}

/// A connection of a client, until it is dropped.
pub(super) struct ClientPlace {
    places: Arc<ClientPlaces>,
    client: IpAddr,
}

impl ClientPlaces {
    pub fn new(limits: ClientLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection; `None` if its client has too many.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<ClientPlace> {
        let client = client_of(address);
        let limit = if client.is_loopback() { self.limits.local } else { self.limits.remote };
        let mut open = self.open();
        let count = open.get(&client).copied().unwrap_or(0);
        if count >= limit {
            return None;
        }
        open.insert(client, count + 1);
        drop(open);
        Some(ClientPlace { places: Arc::clone(self), client })
    }
}

/// What is counted as one client.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) if !six.is_loopback() => {
            let [a, b, c, d, ..] = six.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut open = self.places.open();
        let left = open.get(&self.client).map_or(0, |count| count.saturating_sub(1));
        // Clients that are gone take no memory.
        match left {
            0 => _ = open.remove(&self.client),
            _ => _ = open.insert(self.client, left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_places_of_its_own() {
        let places = ClientPlaces::new(ClientLimits { remote: 2, local: 3 });
        let take = |address: &str| places.take(address.parse().unwrap());
        let mut first = vec![take("10.0.0.1").unwrap(), take("::ffff:10.0.0.1").unwrap()];
        assert!(take("10.0.0.1").is_none() && take("10.0.0.2").is_some());
        first.pop();
        assert!(take("10.0.0.1").is_some());
        let network = [take("2001:db8:1:2::1").unwrap(), take("2001:db8:1:2:ffff::9").unwrap()];
        assert!(take("2001:db8:1:2:3:4:5:6").is_none() && take("2001:db8:1:3::1").is_some());
        let local: Vec<_> = (0..3).map(|_| take("127.0.0.1").unwrap()).collect();
        assert!(take("127.0.0.1").is_none() && take("::1").is_some());
        drop((first, network, local));
        assert!(places.open().is_empty());
    }
}
