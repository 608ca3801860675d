create table users (id bigint primary key, name text not null, region text not null, age int, created timestamptz not null);
create table posts (user_id bigint not null, id bigint not null, title text, likes int not null default 0, created timestamptz not null, primary key (user_id, id));
create index posts_created on posts (created);
create table likes (user_id bigint not null, post_id bigint not null, liker_id bigint not null, created timestamptz not null, primary key (user_id, post_id, liker_id));
create index likes_liker on likes (liker_id);
