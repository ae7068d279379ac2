create table entries (
    id bigint generated always as identity primary key,
    name text not null,
    text text not null
);
