-- count(*) of the likes | 0.85
SELECT count(*) FROM likes;
