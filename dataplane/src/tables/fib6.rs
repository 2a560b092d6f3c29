//! stub
use ipnet::Ipv6Net;
/// stub
pub struct Fib6(Vec<(Ipv6Net, u32)>, u32);
impl Fib6 {
    /// stub
    pub fn build(routes: impl IntoIterator<Item = (Ipv6Net, u32)>, default: u32) -> Fib6 {
        Fib6(routes.into_iter().collect(), default)
    }
    /// stub
    pub fn lookup(&self, address: u128) -> u32 {
        let a = std::net::Ipv6Addr::from(address);
        self.0.iter().filter(|(p, _)| p.contains(&a)).max_by_key(|(p, _)| p.prefix_len()).map_or(self.1, |r| r.1)
    }
}
