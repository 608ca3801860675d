SELECT count(*), sum(score), max(created) FROM posts;
