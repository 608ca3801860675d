-- count(DISTINCT liker_id) | 0.60
SELECT count(DISTINCT liker_id) FROM likes;
