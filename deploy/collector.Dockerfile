# docker build -f deploy/collector.Dockerfile -t spile .   (after `make build`)
FROM scratch
COPY bin/spile /spile
USER 65532:65532
ENTRYPOINT ["/spile"]
CMD ["collector"]
