//! Floor 4. The same commands to be awaited: each is the callback of [`RedisClient`] behind [`Task::cancellable`]. A future
//! that is dropped gives its question up, as [`RedisClient::answering`] does: it may be done all the same.

use super::{Arg, Command, RedisClient, RedisError, Script, Value};
use crate::{Call, Ctx, Resolver, Task};
use std::rc::Rc;
use std::time::Duration;

/// A Redis, to be asked from a task: from [`Task::redis`].
///
/// ```no_run
/// use loopwright::{App, StatusError, asynchronous};
/// let mut app: App = App::new();
/// app.get("/hits", asynchronous(|task, _, res| async move {
///     let hits = task.redis("cache").command(["INCR", "hits"]).await?; // 503 if there is no connection, …
///     res.text(format!("{hits:?}"));
///     Ok::<_, StatusError>(())
/// }));
/// ```
#[derive(Clone)]
pub struct TaskRedis<S: 'static = ()> {
    task: Task<S>,
    name: Rc<str>,
    timeout: Option<Duration>,
}

impl<S: 'static> Task<S> {
    /// The Redis of this name: see [`crate::Ctx::redis`].
    pub fn redis(&self, name: &str) -> TaskRedis<S> {
        TaskRedis {
            task: self.clone(),
            name: name.into(),
            timeout: None,
        }
    }
}

impl<S: 'static> TaskRedis<S> {
    /// How long a reply may take: see [`RedisClient::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        let timeout = Some(timeout);
        TaskRedis { timeout, ..self }
    }

    fn ask<T: 'static>(
        &self,
        ask: impl FnOnce(RedisClient<'_, '_, S>, Resolver<T>) + 'static,
    ) -> Call<S, T> {
        let (name, timeout) = (self.name.clone(), self.timeout);
        self.task.cancellable(move |cx, done| {
            let redis = cx.redis(&name);
            let redis = match timeout {
                Some(timeout) => redis.timeout(timeout),
                None => redis,
            };
            let (db, id) = (redis.db.clone(), redis.id);
            ask(redis, done);
            move |cx: &mut Ctx<'_, S>| {
                if let Some(db) = db {
                    db.give_up(cx, id);
                }
            }
        })
    }

    /// A command's reply: see [`RedisClient::command`].
    pub fn command(&self, command: impl Into<Command>) -> Call<S, Result<Value, RedisError>> {
        let command = command.into();
        self.ask(move |redis, done| redis.command(command, move |_, reply| done.resolve(reply)))
    }

    /// How many clients of that server were given it: see [`RedisClient::publish`].
    ///
    /// ```
    /// use loopwright::{App, StatusError, asynchronous};
    /// let mut app: App = App::new();
    /// app.post("/news", asynchronous(|task, req, res| async move {
    ///     let heard = task.redis("cache").publish("news", req.body_bytes()).await?;
    ///     res.text(heard.to_string());
    ///     Ok::<_, StatusError>(())
    /// }));
    /// ```
    pub fn publish(
        &self,
        channel: impl Arg + 'static,
        message: impl Arg + 'static,
    ) -> Call<S, Result<i64, RedisError>> {
        self.ask(move |redis, done| {
            redis.publish(channel, message, move |_, heard| done.resolve(heard));
        })
    }

    /// Changes what nobody else has changed meanwhile: see [`RedisClient::watch`].
    ///
    /// ```
    /// use loopwright::{App, StatusError, asynchronous, service::redis::{Command, Value}};
    /// let mut app: App = App::new();
    /// app.post("/double", asynchronous(|task, _, res| async move {
    ///     let decide = |replies: Vec<Value>| {
    ///         let text = std::str::from_utf8(replies[0].bytes()?).ok()?;
    ///         let n: i64 = text.parse().ok()?;
    ///         Some(vec![Command::from(("SET", "n", 2 * n))])
    ///     };
    ///     let done = task.redis("cache").watch(["n"], [["GET", "n"]], decide).await?;
    ///     res.text(if done.is_some() { "doubled" } else { "there is no number" });
    ///     Ok::<_, StatusError>(())
    /// }));
    /// ```
    pub fn watch(
        &self,
        keys: impl IntoIterator<Item = impl Arg> + 'static,
        reads: impl IntoIterator<Item = impl Into<Command>> + 'static,
        mut decide: impl FnMut(Vec<Value>) -> Option<Vec<Command>> + 'static,
    ) -> Call<S, Result<Option<Vec<Value>>, RedisError>> {
        self.ask(move |redis, done| {
            let decide = move |_: &mut Ctx<'_, S>, replies| decide(replies);
            redis.watch(keys, reads, decide, move |_, replies| done.resolve(replies));
        })
    }

    /// All of them or none: see [`RedisClient::multi`].
    pub fn multi(
        &self,
        commands: impl IntoIterator<Item = impl Into<Command>>,
    ) -> Call<S, Result<Vec<Value>, RedisError>> {
        let commands: Vec<Command> = commands.into_iter().map(Into::into).collect();
        self.ask(move |redis, done| redis.multi(commands, move |_, replies| done.resolve(replies)))
    }

    /// A script's reply: see [`RedisClient::script`].
    pub fn script(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[&str],
    ) -> Call<S, Result<Value, RedisError>> {
        let owned = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.to_string())
                .collect::<Vec<_>>()
        };
        let (script, keys, arguments) = (script.clone(), owned(keys), owned(arguments));
        self.ask(move |redis, done| {
            redis.script(&script, &keys, &arguments, move |_, reply| {
                done.resolve(reply)
            });
        })
    }
}
