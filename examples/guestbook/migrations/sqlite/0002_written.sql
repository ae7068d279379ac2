-- SQLite adds no column whose default is not a constant.
alter table entries add column written text not null default '';
update entries set written = strftime('%Y-%m-%dT%H:%M:%SZ');
