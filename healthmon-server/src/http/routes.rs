//! The routes, each with what it takes to use it.
//!
//! A route can be added only together with its [`Need`], so none is forgotten; and one that got in
//! by another way has no need on record, and is refused to everyone.

use std::collections::BTreeMap;

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, MethodRouter, on},
};
use http::Method;

use super::Api;
use crate::auth::AccessRole;

/// What it takes to use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// Nothing: whoever reaches the server may.
    Open,
    /// Nothing or a viewer, as `--metrics-access` says.
    Metrics,
    /// A token in the path, which the route itself looks at.
    Token,
    /// This role or a higher one.
    Role(AccessRole),
}

/// A route of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The method; `HEAD` goes with `GET`.
    pub method: Method,
    /// The path, with `{…}` where a segment varies.
    pub path: &'static str,
    /// What it takes.
    pub need: Need,
}

/// A router that knows what each of its routes takes.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Api>,
    table: Table,
}

impl Routes {
    pub(super) fn get<H, T>(self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::GET, path, need, on(MethodFilter::GET, handler))
    }

    pub(super) fn post<H, T>(self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::POST, path, need, on(MethodFilter::POST, handler))
    }

    pub(super) fn patch<H, T>(self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::PATCH, path, need, on(MethodFilter::PATCH, handler))
    }

    pub(super) fn delete<H, T>(self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::DELETE, path, need, on(MethodFilter::DELETE, handler))
    }

    fn add(mut self, method: Method, path: &'static str, need: Need, service: MethodRouter<Api>) -> Self {
        self.table.needs.entry(path).or_default().push((method, need));
        Self { router: self.router.route(path, service), table: self.table }
    }

    /// The router, and what its routes take.
    pub(super) fn into_parts(self) -> (Router<Api>, Table) {
        (self.router, self.table)
    }
}

/// What each declared route takes.
#[derive(Debug, Default)]
pub(super) struct Table {
    needs: BTreeMap<&'static str, Vec<(Method, Need)>>,
}

/// What the table says of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Declared {
    /// The route takes this.
    Takes(Need),
    /// The path is there, but not with this method; with these it is.
    OtherMethods(Vec<Method>),
    /// Nobody said what this takes.
    Nothing,
}

impl Table {
    /// What a route takes, by its path as it was declared.
    pub(super) fn of(&self, method: &Method, path: &str) -> Declared {
        let Some(needs) = self.needs.get(path) else { return Declared::Nothing };
        // axum answers HEAD with GET's handler.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let found = needs.iter().find(|(declared, _)| declared == method);
        found.map_or_else(
            || Declared::OtherMethods(needs.iter().map(|(method, _)| method.clone()).collect()),
            |(_, need)| Declared::Takes(*need),
        )
    }

    pub(super) fn into_routes(self) -> Vec<Route> {
        let of_path = |(path, needs): (&'static str, Vec<(Method, Need)>)| {
            needs.into_iter().map(move |(method, need)| Route { method, path, need })
        };
        self.needs.into_iter().flat_map(of_path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_takes_what_was_declared_with_it_and_head_goes_with_get() {
        let routes = Routes::default().get("/a/{id}", Need::Role(AccessRole::Viewer), async || "").post(
            "/a/{id}",
            Need::Role(AccessRole::Editor),
            async || "",
        );
        let (_, table) = routes.into_parts();
        assert_eq!(table.of(&Method::HEAD, "/a/{id}"), Declared::Takes(Need::Role(AccessRole::Viewer)));
        assert_eq!(table.of(&Method::POST, "/a/{id}"), Declared::Takes(Need::Role(AccessRole::Editor)));
        assert_eq!(table.of(&Method::PUT, "/a/{id}"), Declared::OtherMethods(vec![Method::GET, Method::POST]));
        assert_eq!(table.of(&Method::GET, "/a"), Declared::Nothing);
    }
}
